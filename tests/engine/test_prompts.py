"""Several prompts in one completions request: each is answered as it would be alone."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core.messages import Loaded
from openinference_engine.core.threaded import ThreadedCore
from openinference_engine.parsers.reading import Reading
from openinference_engine.server.encoded_prompt import EncodedPrompt
from openinference_engine.server.front import load_front
from openinference_engine.server.generation import Generation
from openinference_engine.server.metrics import Metrics
from openinference_engine.server.schema import CompletionRequest
from openinference_engine.server.state import ServerState

PROMPTS = ["The sea", "Ärger: 数字"]
BODY: dict[str, Any] = {"model": "smollm2", "max_tokens": 8, "temperature": 1.1, "seed": 5, "n": 2}


def answer(http: httpx2.Client, prompt: object, **changes: object) -> dict[str, Any]:
    response = http.post("/v1/completions", json=BODY | {"prompt": prompt} | changes)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def alone(http: httpx2.Client, prompts: list[Any], **changes: object) -> list[dict[str, Any]]:
    """The choices of a request for each, numbered through."""
    bodies = [answer(http, prompt, **changes) for prompt in prompts]
    choices = [choice for body in bodies for choice in body["choices"]]
    return [choice | {"index": index} for index, choice in enumerate(choices)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"n": 1, "temperature": 0}, {"echo": True, "logprobs": 2}, {"return_token_ids": True}],
    ids=["drawn", "likeliest", "echoed and rated", "with ids"],
)
def test_each_prompt_is_answered_as_alone(http: httpx2.Client, changes: dict[str, Any]) -> None:
    together = answer(http, PROMPTS, **changes)
    assert together["choices"] == alone(http, PROMPTS, **changes)


def test_usage_is_that_of_all_together(http: httpx2.Client) -> None:
    each = [answer(http, prompt, ignore_eos=True)["usage"] for prompt in PROMPTS]
    together = answer(http, PROMPTS, ignore_eos=True)["usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert together[name] == sum(usage[name] for usage in each)
    assert together["completion_tokens"] == 2 * 2 * 8


def test_what_the_cache_held_of_each_prompt_is_told_together(http: httpx2.Client) -> None:
    prompts = [" sea" * 40, " shore" * 40]
    answer(http, prompts)
    each = [answer(http, prompt)["usage"]["prompt_tokens_details"] for prompt in prompts]
    assert all(details["cached_tokens"] for details in each)
    together = answer(http, prompts)["usage"]["prompt_tokens_details"]
    assert together["cached_tokens"] == sum(details["cached_tokens"] for details in each)


def test_prompts_may_be_lists_of_token_ids(http: httpx2.Client) -> None:
    as_ids = [http.post("/tokenize", json={"prompt": one}).json()["tokens"] for one in PROMPTS]
    assert answer(http, as_ids)["choices"] == answer(http, PROMPTS)["choices"]


def test_repeated_prompt_is_answered_as_if_more_answers_were_asked_for(
    http: httpx2.Client,
) -> None:
    """Else its answers would be the same ones again, whatever the temperature."""
    repeated = answer(http, ["The sea", "Once", "The sea"], n=1)["choices"]
    more = answer(http, "The sea", n=2)["choices"]
    texts = [choice["text"] for choice in repeated]
    assert texts[::2] == [choice["text"] for choice in more]
    assert texts[0] != texts[2]


def test_openai_client_reads_them_whole_and_as_a_stream(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt=PROMPTS, echo=True, **BODY)
    assert [choice.index for choice in whole.choices] == list(range(4))
    assert [c.text.startswith(PROMPTS[c.index // 2]) for c in whole.choices] == [True] * 4
    texts: dict[int, str] = defaultdict(str)
    ends: dict[int, str] = {}
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    usage = None
    for chunk in client.completions.create(prompt=PROMPTS, echo=True, **BODY, **options):
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage is not None
    assert whole.usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


def test_echo_comes_with_the_first_token_of_each_answer(http: httpx2.Client) -> None:
    """So whoever goes on with a stream knows by an answer's ids whether its prompt was said."""
    internal = {"stream_token_ids": True}
    body = BODY | {"prompt": PROMPTS, "echo": True, "stream": True, "openinference": internal}
    lines = http.post("/v1/completions", json=body).text.splitlines()
    begun = set()
    for chunk in (json.loads(line[6:]) for line in lines if line.startswith("data: {")):
        (choice,) = chunk["choices"]
        if choice["index"] not in begun:
            assert choice["text"].startswith(PROMPTS[choice["index"] // 2])
            assert chunk["openinference"]["token_ids"][str(choice["index"])]
        begun.add(choice["index"])
    assert begun == set(range(4))


async def test_rules_of_a_request_are_read_once_for_all_prompts(tiny_llama: Path) -> None:
    """Regression: 256 bad words for 200 prompts kept every other client waiting for 10 s."""
    server, engine = ServerConfig(), EngineConfig(f"file://{tiny_llama}")
    core = ThreadedCore(engine)
    core.loaded = Loaded(256, 8, "cpu", {}, {})
    front = load_front(engine.model_uri)
    metrics = Metrics(server, "tiny", core.heartbeat)
    state = ServerState(server, engine, "tiny", core, metrics, 0, front=front)
    prompts = [EncodedPrompt([token_id], front.tokenizer) for token_id in (5, 6, 7)]
    bias = {"7": 1.0}
    request = CompletionRequest(model="tiny", prompt="", bad_words=["bad"], logit_bias=bias)
    choices = Generation(state, request, prompts, "", Reading(), "cmpl").choices
    core._end()  # it was never run
    for rule in ("bad_words", "logit_bias", "stop_token_ids"):
        assert len({id(getattr(choice.params, rule)) for choice in choices}) == 1
