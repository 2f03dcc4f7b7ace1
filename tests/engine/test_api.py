"""The API as its users see it: the official client against a real server process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
HEADERS = {"x-openinference-token": "a-token-for-tests"}


@pytest.fixture
def client(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    url = str(http.base_url.join("/v1"))
    with openai.OpenAI(base_url=url, api_key="none", default_headers=HEADERS) as client:
        yield client


@pytest.fixture
async def async_client(http: httpx2.Client) -> AsyncIterator[openai.AsyncOpenAI]:
    url = str(http.base_url.join("/v1"))
    async with openai.AsyncOpenAI(base_url=url, api_key="none", default_headers=HEADERS) as client:
        yield client


def test_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", ANSWER)
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (37, 8)
    assert answer.usage.total_tokens == 45


def test_our_own_answer_may_be_sent_back(client: openai.OpenAI) -> None:
    """Regression: its message says `refusal: null`, which was refused on the second turn."""
    first = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0)
    turns: Any = [*QUESTION, first.choices[0].message, {"role": "user", "content": "And of Spain?"}]
    second = client.chat.completions.create(model="smollm2", messages=turns, temperature=0)
    assert "Madrid" in (second.choices[0].message.content or "")


def test_stream_brings_the_same_answer_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="smollm2",
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    first, *pieces, last = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == ANSWER
    assert len(pieces) > 3
    assert [chunk.choices[0].finish_reason for chunk in pieces][-2:] == [None, "stop"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_stream_ends_with_done(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 2, "stream": True}
    text = http.post("/v1/chat/completions", json=body).text
    assert text.endswith("data: [DONE]\n\n")
    assert "usage" not in text


def test_completion_continues_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", temperature=0, max_tokens=6
    )
    assert answer.choices[0].text.startswith(" 5, 6")
    assert answer.choices[0].finish_reason == "length"
    stream = client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", temperature=0, max_tokens=6, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_prompt_may_be_token_ids(client: openai.OpenAI, http: httpx2.Client) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=[33, 28, 216, 34, 28], temperature=0, max_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_several_choices_differ_and_each_repeats(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model="smollm2", messages=QUESTION, n=3, seed=5, max_tokens=12, temperature=1.5
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first


def test_stop_string_is_not_shown(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, stop=["Par", "never"]
    )
    assert answer.choices[0].message.content == "The capital of France is "
    assert answer.choices[0].finish_reason == "stop"


def test_extra_fields_of_other_engines_work(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        max_completion_tokens=12,
        logit_bias={"504": -100},
        extra_body={"top_k": 1, "min_tokens": 12, "ignore_eos": True, "repetition_penalty": 1.1},
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.choices[0].message.content is not None
    assert not answer.choices[0].message.content.startswith("The")


def test_chat_logprobs_spell_the_answer(client: openai.OpenAI) -> None:
    """Tokens, bytes and the best alternatives; streamed they are the same."""
    asked: Any = {
        **{"model": "smollm2", "messages": QUESTION, "temperature": 0, "stop": ["Par"]},
        **{"logprobs": True, "top_logprobs": 2},
    }
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    assert whole is not None
    assert whole.content is not None
    spelt = "".join(token.token for token in whole.content)
    assert spelt == "The capital of France is Paris"  # the token that holds the stop string too
    for token in whole.content:
        assert bytes(token.bytes or []).decode() == token.token
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == token.logprob <= 0
        assert token.top_logprobs[1].logprob < token.logprob
    chunks = client.chat.completions.create(**asked, stream=True)
    rated = [c.choices[0].logprobs for c in chunks]
    pieces = [token for one in rated if one is not None for token in one.content or []]
    assert [p.model_dump() for p in pieces] == [token.model_dump() for token in whole.content]


def test_parts_of_characters_are_rated_as_bytes(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2",
        messages=QUESTION,
        max_tokens=4,
        logit_bias={"10813": 100},  # the first two bytes of an emoji
        logprobs=True,
    )
    assert answer.choices[0].logprobs is not None
    spelt = [(one.token, one.bytes) for one in answer.choices[0].logprobs.content or []]
    assert spelt == [("\ufffd", list(b"\xf0\x9f"))] * 4


def test_completion_logprobs_lie_at_their_offsets(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt="1, 2, 3, 4,", temperature=0, max_tokens=6, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    tokens, offsets = choice.logprobs.tokens or [], choice.logprobs.text_offset or []
    assert "".join(tokens) == choice.text
    assert len(tokens) == 6
    for token, offset in zip(tokens, offsets, strict=True):
        assert choice.text[offset:].startswith(token)
    for token, logprob, top in zip(
        tokens,
        choice.logprobs.token_logprobs or [],
        choice.logprobs.top_logprobs or [],
        strict=True,
    ):
        assert len(top) == 2
        assert top[token] == logprob == max(top.values())


def test_prompt_logprobs_name_every_token_but_the_first(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "prompt": [33, 28, 216, 34, 28], "prompt_logprobs": 1, "n": 2}
    answer = http.post("/v1/completions", json=body | {"max_tokens": 1}).json()
    first, *rated = answer["choices"][0]["prompt_logprobs"]
    assert first is None
    for token_id, one in zip(body["prompt"][1:], rated, strict=True):
        assert 1 <= len(one) <= 2
        best, own = min(one.values(), key=lambda item: item["rank"]), one[str(token_id)]
        assert best["rank"] == 1
        assert own["logprob"] <= best["logprob"] <= 0
    assert "2" in [one["decoded_token"] for one in rated[2].values()]
    chat = {"model": "smollm2", "messages": QUESTION, "max_tokens": 1, "prompt_logprobs": 0}
    answer = http.post("/v1/chat/completions", json=chat).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


def test_bad_words_and_allowed_tokens_are_kept(client: openai.OpenAI) -> None:
    asked: Any = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    answer = client.chat.completions.create(**asked, extra_body={"bad_words": ["Paris", "the"]})
    text = answer.choices[0].message.content or ""
    assert "Paris" not in text
    assert " the " not in text
    allowed = {"allowed_token_ids": [504, 3575]}
    answer = client.chat.completions.create(**asked, extra_body=allowed)
    assert set((answer.choices[0].message.content or "").split()) <= {"The", "capital"}


def test_text_becomes_tokens_and_text_again(http: httpx2.Client) -> None:
    text = "Ahoj světe \U0001f600!"
    answer = http.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == 512
    assert answer["token_strs"][0] == "A"
    back = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()
    assert back == {"prompt": text}


def test_conversation_is_tokenized_as_the_model_reads_it(http: httpx2.Client) -> None:
    asked = {"model": "smollm2", "messages": QUESTION}
    answer = http.post("/tokenize", json=asked).json()
    body = asked | {"max_tokens": 1}
    usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert answer["count"] == usage["prompt_tokens"] == 37
    text = http.post("/detokenize", json={"tokens": answer["tokens"]}).json()["prompt"]
    assert text.startswith("<|im_start|>system")
    assert text.endswith("<|im_start|>assistant\n")


def test_usage_so_far_and_token_ids_are_told_on_request(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 5}
    body |= {"return_token_ids": True, "stream": True}
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = http.post("/v1/chat/completions", json=body | {"stream_options": options}).text
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 5
    streamed = [t for chunk in chunks for c in chunk["choices"] for t in c.get("token_ids", ())]
    whole = http.post("/v1/chat/completions", json=body | {"stream": False}).json()
    assert whole["choices"][0]["token_ids"] == streamed
    assert len(whole["prompt_token_ids"]) == whole["usage"]["prompt_tokens"]


def test_prefix_is_shared_only_under_the_same_salt(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "prompt": "A tale of two cities. " * 20, "max_tokens": 1}
    cached = [
        http.post("/v1/completions", json=body | {"cache_salt": salt}).json()["usage"][
            "prompt_tokens_details"
        ]["cached_tokens"]
        for salt in ("ours", "ours", "theirs")
    ]
    assert cached[0] == cached[2] == 0 < cached[1]


def test_long_prompt_may_be_cut_at_its_beginning(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "prompt": "zero " * 600 + "1, 2, 3, 4,", "max_tokens": 2}
    body |= {"truncate_prompt_tokens": 12, "temperature": 0}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == 12
    assert answer["choices"][0]["text"] == " 5"


def test_last_message_may_be_gone_on_with(client: openai.OpenAI) -> None:
    turns: Any = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = client.chat.completions.create(
        model="smollm2",
        messages=turns,
        temperature=0,
        max_tokens=2,
        extra_body={"continue_final_message": True},
    )
    assert answer.choices[0].message.content == " Paris."


async def test_many_at_once_get_their_own_answers(async_client: openai.AsyncOpenAI) -> None:
    async def count_from(start: int) -> str:
        answer = await async_client.completions.create(
            model="smollm2", prompt=f"{start}, {start + 1},", temperature=0, max_tokens=5
        )
        return answer.choices[0].text

    starts = (1, 11, 21, 31)
    together = await asyncio.gather(*(count_from(start) for start in starts))
    assert together == [await count_from(start) for start in starts]


async def test_async_stream_that_is_left_early_frees_its_seat(
    async_client: openai.AsyncOpenAI, http: httpx2.Client
) -> None:
    stream = await async_client.chat.completions.create(
        model="smollm2", messages=QUESTION, extra_body={"ignore_eos": True}, stream=True
    )
    async for _ in stream:
        break
    await stream.close()
    with http.stream("GET", "/load") as stream_of_load:
        lines = (line for line in stream_of_load.iter_lines() if line.startswith("data: "))
        assert any(json.loads(line[6:])["running"] == 0 for line in lines)


def test_repeated_prompt_is_reported_as_cached(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Please repeat: " + "so it goes " * 20}]
    for expected in (0, 96):
        answer = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=1)
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == pytest.approx(expected, abs=25)


def test_models_list_names_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["smollm2"]


def test_request_id_comes_back(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=body, headers={"x-request-id": "abc"})
    assert answer.headers["x-request-id"] == "abc"
    answer = http.post("/v1/chat/completions", json=body | {"stream": True})
    assert answer.headers["x-request-id"]


def test_load_reports_state_and_change(http: httpx2.Client) -> None:
    with http.stream("GET", "/load") as stream:
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        report = json.loads(next(lines)[6:])
        assert set(report) == {
            *("group", "model", "ready", "draining", "stepAgeSeconds", "seats", "running"),
            *("waiting", "queuedTokens", "kvUsage", "prefillTokensPerSecond"),
            *("decodeTokensPerSecond", "resumeKey"),
        }
        assert (report["model"], report["ready"], report["seats"]) == ("smollm2", True, 2)
        assert report["prefillTokensPerSecond"] > 0
        assert len(report["resumeKey"]) == 32
        body = {"model": "smollm2", "messages": QUESTION, "ignore_eos": True, "stream": True}
        with http.stream("POST", "/v1/chat/completions", json=body):  # until it is seen running
            assert any(json.loads(line[6:])["running"] == 1 for line in lines)
        assert any(json.loads(line[6:])["running"] == 0 for line in lines)


def test_metrics_have_their_names(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "messages": QUESTION, "temperature": 0, "max_tokens": 3}
    http.post("/v1/chat/completions", json=body)
    text = http.get("/metrics").text
    for name in (
        'vllm:num_requests_running{engine="0",inference_namespace="",inference_service="",',
        "vllm:num_requests_waiting{",
        "vllm:kv_cache_usage_perc{",
        "vllm:generation_tokens_total{",
        "vllm:prompt_tokens_total{",
        "vllm:time_to_first_token_seconds_bucket{",
        "vllm:inter_token_latency_seconds_bucket{",
        "vllm:e2e_request_latency_seconds_bucket{",
        'vllm:request_success_total{engine="0",finished_reason="length",inference_namespace="",',
        'vllm:cache_config_info{block_size="16",cache_dtype="auto",',
        "vllm:request_queue_time_seconds_bucket{",
        "vllm:request_inference_time_seconds_bucket{",
        "vllm:request_prefill_kv_computed_tokens_bucket{",
        "vllm:request_max_num_generation_tokens_bucket{",
        "vllm:request_params_n_bucket{",
        "vllm:request_params_max_tokens_bucket{",
        "vllm:prompt_tokens_cached_total{",
        'openinference_requests_waiting{component="engine",inference_namespace="",',
        "openinference_requests_running{",
        "openinference_engine_steps_total{",
        "openinference_last_step_age_seconds{",
        "openinference_prefill_tokens_per_second{",
        "openinference_queued_tokens{",
        "openinference_start_stage_seconds{",
    ):
        assert f"\n{name}" in text, name


def test_version_is_told(http: httpx2.Client) -> None:
    assert http.get("/version").json()["version"]


ECHOED: dict[str, Any] = {
    "model": "smollm2",
    "prompt": "Ärger: the sea",
    "max_tokens": 4,
    "temperature": 0,
    "echo": True,
}


def test_echo_puts_the_prompt_before_each_answer(http: httpx2.Client) -> None:
    plain = http.post("/v1/completions", json=ECHOED | {"echo": False}).json()["choices"][0]
    answer = http.post("/v1/completions", json=ECHOED | {"n": 2}).json()
    assert [c["text"] for c in answer["choices"]] == [ECHOED["prompt"] + plain["text"]] * 2
    assert answer["usage"]["completion_tokens"] == 8
    as_ids = http.post("/tokenize", json={"prompt": ECHOED["prompt"]}).json()["tokens"]
    answer = http.post("/v1/completions", json=ECHOED | {"prompt": [as_ids]}).json()
    assert answer["choices"][0]["text"] == ECHOED["prompt"] + plain["text"]


def test_echo_rates_the_prompt_like_the_answer(http: httpx2.Client) -> None:
    """What harnesses measure likelihoods with: one list for all tokens, none for the first."""
    rated = ECHOED | {"logprobs": 2}
    plain = http.post("/v1/completions", json=rated | {"echo": False, "prompt_logprobs": 2}).json()
    answer = http.post("/v1/completions", json=rated).json()["choices"][0]
    logprobs = answer["logprobs"]
    num_prompt = len(logprobs["tokens"]) - 4
    told = plain["choices"][0]["prompt_logprobs"]
    best = [max(entry.values(), key=lambda one: one["logprob"])["logprob"] for entry in told[1:]]
    top = [max(one.values()) for one in logprobs["top_logprobs"][1:num_prompt]]
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0]) == (None, None)
    assert top == pytest.approx(best, abs=1e-6)
    assert logprobs["token_logprobs"][num_prompt:] == pytest.approx(
        plain["choices"][0]["logprobs"]["token_logprobs"], abs=1e-6
    )
    starts = [answer["text"][offset:] for offset in logprobs["text_offset"]]
    named = [t for t in zip(starts, logprobs["tokens"], strict=True) if "\\x" not in t[1]]
    assert all(start.startswith(token) for start, token in named)
    assert len(named) > 4


def test_echo_opens_a_stream(http: httpx2.Client) -> None:
    lines = http.post("/v1/completions", json=ECHOED | {"stream": True}).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[0]["choices"][0]["text"].startswith(ECHOED["prompt"])
    whole = http.post("/v1/completions", json=ECHOED).json()["choices"][0]["text"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole
