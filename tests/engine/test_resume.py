"""A stream cut half-way goes on elsewhere: same tokens, same text, same usage."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

Chunks = list[dict[str, Any]]
WholeOf = Callable[..., Chunks]
BODY: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "Tell me a short story about a lighthouse."}],
    "max_tokens": 40,
    "seed": 11,
    "temperature": 1.1,
    "stop": ["the the"],
    "stream": True,
    "stream_options": {"include_usage": True},
}


def stream(
    http: httpx2.Client, body: dict[str, Any], path: str = "/v1/chat/completions"
) -> list[dict[str, Any]]:
    lines = http.post(path, json=body).text.splitlines()
    events = [line[6:] for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.fixture(scope="module")
def whole_of() -> WholeOf:
    """What `stream` gives undisturbed, asked for once: a seed gives the same wherever it is cut."""
    streams: dict[str, Chunks] = {}

    def whole(
        http: httpx2.Client, body: dict[str, Any], path: str = "/v1/chat/completions"
    ) -> Chunks:
        asked = json.dumps([path, body])
        if asked not in streams:
            streams[asked] = stream(http, body, path)
        return streams[asked]

    return whole


def text_of(chunks: list[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.mark.parametrize("cut", [1, 2, 13, 30])
def test_resumed_stream_goes_on_with_the_same_tokens(
    http: httpx2.Client, whole_of: WholeOf, cut: int
) -> None:
    body = BODY | {"openinference": {"stream_token_ids": True}}
    whole = whole_of(http, body)
    consumed = [token for chunk in whole[:cut] for token in ids_of(chunk)]
    resume = {
        "id": whole[0]["id"],
        "created": whole[0]["created"],
        "token_ids": {"0": consumed},
    }
    rest = stream(http, BODY | {"openinference": {"stream_token_ids": True, "resume": resume}})
    assert text_of(whole[:cut]) + text_of(rest) == text_of(whole)
    assert consumed + [t for chunk in rest for t in ids_of(chunk)] == [
        token for chunk in whole for token in ids_of(chunk)
    ]
    assert {chunk["id"] for chunk in rest} == {whole[0]["id"]}
    assert {chunk["created"] for chunk in rest} == {whole[0]["created"]}
    usage = (whole[-1]["usage"], rest[-1]["usage"])
    assert usage[0]["completion_tokens"] == usage[1]["completion_tokens"]
    assert all("role" not in c["delta"] for chunk in rest for c in chunk["choices"])


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "light": {"type": "number"}},
    "required": ["name", "light"],  # so that an answer is long enough to be cut anywhere
}
LIGHT_TOOL = {"type": "function", "function": {"name": "light", "parameters": SCHEMA}}
MATRIX: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "stop strings": {"stop": ["sea", " was"], "logprobs": True},
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "light", "schema": SCHEMA},
        },
    },
    "tools": {"tools": [LIGHT_TOOL], "tool_choice": "required", "parallel_tool_calls": False},
    "tools if need be": {"tools": [LIGHT_TOOL], "logprobs": True},
    "bad words": {"bad_words": ["the", "a"], "frequency_penalty": 0.5},
}


@pytest.mark.parametrize("change", MATRIX.values(), ids=MATRIX)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_resumed_stream_says_what_the_undisturbed_one_says(
    http: httpx2.Client, whole_of: WholeOf, change: dict[str, Any], share: float
) -> None:
    """Nothing is lost at the seam or told twice: text, log-probabilities, end and usage."""
    body = BODY | change | {"openinference": {"stream_token_ids": True}}
    whole = whole_of(http, body)
    cut = max(1, round(share * len(whole)))
    rest = stream(http, body | {"openinference": resume_after(whole[:cut])})
    assert said(whole[:cut] + rest) == said(whole)
    assert whole[-1]["usage"] == rest[-1]["usage"]


PLAIN = {name: BODY[name] for name in BODY.keys() - {"messages"}} | {
    "prompt": "The lighthouse stood",
    "ignore_eos": True,
}
PLAIN_MATRIX: dict[str, dict[str, Any]] = {
    "alone": {},
    "of two": {"n": 2, "min_tokens": 5},
    "echoed": {"echo": True, "n": 2},
    "several prompts": {"prompt": ["The sea", "The sea", "Ärger:"], "echo": True, "max_tokens": 12},
    "rated": {"logprobs": 2},
    "pattern": {"guided_regex": "[a-f ]{40,60}", "ignore_eos": False},
}


@pytest.mark.parametrize("change", PLAIN_MATRIX.values(), ids=PLAIN_MATRIX)
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_resumed_completions_say_what_the_undisturbed_ones_say(
    http: httpx2.Client, whole_of: WholeOf, change: dict[str, Any], share: float
) -> None:
    body = PLAIN | change | {"openinference": {"stream_token_ids": True}}
    whole = whole_of(http, body, "/v1/completions")
    cut = max(2, round(share * len(whole)))
    resumed = body | {"openinference": resume_after(whole[:cut])}
    rest = stream(http, resumed, "/v1/completions")
    num_choices = len({choice["index"] for chunk in whole for choice in chunk["choices"]})
    assert num_choices == change.get("n", len(change.get("prompt", ["one"])))
    for number in range(num_choices):
        assert written(number, whole[:cut] + rest) == written(number, whole)
    assert whole[-1]["usage"]["completion_tokens"] == rest[-1]["usage"]["completion_tokens"]


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_each_of_several_chats_is_resumed_where_it_stood(
    http: httpx2.Client, whole_of: WholeOf, share: float
) -> None:
    body = BODY | {"n": 2, "openinference": {"stream_token_ids": True}}
    whole = whole_of(http, body)
    cut = max(3, round(share * len(whole)))
    rest = stream(http, body | {"openinference": resume_after(whole[:cut])})
    for number in range(2):
        assert said(only(number, whole[:cut] + rest)) == said(only(number, whole))
        assert ids_of_choice(number, whole[:cut] + rest) == ids_of_choice(number, whole)


def written(number: int, chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a client makes of one plain completion."""
    choices = [choice for chunk in only(number, chunks) for choice in chunk["choices"]]
    return {
        "text": "".join(choice["text"] for choice in choices),
        # One before the cut is told again (the router drops that).
        "ends": {choice["finish_reason"] for choice in choices if choice["finish_reason"]},
        "logprobs": [value for c in choices for value in (c["logprobs"] or {}).get("tokens", ())],
        "token_ids": ids_of_choice(number, chunks),
    }


def only(number: int, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chunks as they were if the other choices had not been asked for."""
    return [
        chunk | {"choices": [c for c in chunk["choices"] if c["index"] == number]}
        for chunk in chunks
    ]


def ids_of_choice(number: int, chunks: list[dict[str, Any]]) -> list[int]:
    told = [chunk.get("openinference", {}).get("token_ids", {}) for chunk in chunks]
    return [token for by_choice in told for token in by_choice.get(str(number), [])]


def said(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """All that a client makes of the only choice."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return {
        "text": text_of(chunks),
        "calls": calls_of(choices),
        "logprobs": [token for c in choices if c["logprobs"] for token in c["logprobs"]["content"]],
        "ends": [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        "token_ids": [token for chunk in chunks for token in ids_of(chunk)],
    }


def calls_of(choices: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(id, name, arguments) of each tool call."""
    deltas = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    return [
        (
            begin["id"],
            begin["function"]["name"],
            "".join(d["function"]["arguments"] for d in deltas if d["index"] == begin["index"]),
        )
        for begin in deltas
        if "id" in begin
    ]


def resume_after(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The internal field by which a router goes on behind these chunks."""
    numbers = {choice["index"] for chunk in chunks for choice in chunk["choices"]}
    token_ids = {str(number): ids_of_choice(number, chunks) for number in numbers}
    first = {name: chunks[0][name] for name in ("id", "created")}
    cached = [c["openinference"].get("cached_tokens", 0) for c in chunks if "openinference" in c]
    so_far = {"token_ids": token_ids, "cached_tokens": sum(cached)}
    return {"stream_token_ids": True, "resume": first | so_far}


def test_token_ids_are_only_shown_when_asked_for(http: httpx2.Client) -> None:
    assert all("openinference" not in chunk for chunk in stream(http, BODY))


def test_answer_that_had_ended_only_says_so(http: httpx2.Client) -> None:
    body = BODY | {"max_tokens": 5, "openinference": {"stream_token_ids": True}}
    whole = stream(http, body)
    resume = {
        "id": whole[0]["id"],
        "created": whole[0]["created"],
        "token_ids": {"0": [token for chunk in whole for token in ids_of(chunk)]},
    }
    from_a_newer_router = {"resume": resume | {"reason": "drain"}, "attempt": 2}
    rest = stream(http, body | {"openinference": from_a_newer_router})
    assert text_of(rest) == ""
    assert [c["finish_reason"] for chunk in rest for c in chunk["choices"]] == ["length"]
    assert rest[-1]["usage"]["completion_tokens"] == 5


def ids_of(chunk: dict[str, Any]) -> list[int]:
    return chunk.get("openinference", {}).get("token_ids", {}).get("0", [])
