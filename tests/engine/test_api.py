"""The API as its users see it: the official client against a real server process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
HEADERS = {"x-openinference-token": "a-token-for-tests"}


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
