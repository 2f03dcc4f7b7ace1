"""Completions of a prompt as their users see them: the official client against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers

from tests.engine.test_api import QUESTION


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


def test_completion_keeps_the_blank_that_it_begins_with(
    start_server: Callable[..., Any], make_tiny_model: Callable[..., Path]
) -> None:
    """Regression: of models like Llama 2, `The sky is` went on with `blue`, and not ` blue`."""
    server, blank = start_pieces(start_server, make_tiny_model())
    body = {"model": "tiny", "allowed_token_ids": [blank], "max_tokens": 2, "ignore_eos": True}
    plain = body | {"prompt": "a", "echo": True}
    answer = httpx2.post(server.url + "/v1/completions", json=plain, timeout=60)
    assert answer.json()["choices"][0]["text"] == "a  "
    chat = body | {"messages": [{"role": "user", "content": "a"}]}
    answer = httpx2.post(server.url + "/v1/chat/completions", json=chat, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == " "


def test_offsets_know_of_the_blank_that_no_text_begins_with(
    start_server: Callable[..., Any], make_tiny_model: Callable[..., Path]
) -> None:
    """Of the same models a blank that was a token of its own was not counted, the first one was."""
    server, _ = start_pieces(start_server, make_tiny_model())
    body = {"model": "tiny", "prompt": "a b  c", "echo": True, "logprobs": 0, "max_tokens": 1}
    answer = httpx2.post(server.url + "/v1/completions", json=body, timeout=60)
    (choice,) = answer.json()["choices"]
    rated = choice["logprobs"]
    told = list(zip(rated["tokens"], rated["text_offset"], strict=True))
    assert told[:7] == [(" ", 0), ("a", 0), (" ", 1), ("b", 2), (" ", 3), (" ", 4), ("c", 5)]


def start_pieces(start_server: Callable[..., Any], folder: Path) -> tuple[Any, int]:
    """A model with a tokenizer of SentencePiece's kind, and the id of its blank."""
    signs = ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "<s>", "</s>"]
    backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate(signs)}, []))
    replace = normalizers.Replace(" ", "\u2581")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace])
    parts = [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    server = start_server(f"file://{folder}", "--served-model-name", "tiny")
    server.wait_until("/ready", 200)
    return server, 0


def test_prompt_may_be_token_ids(client: openai.OpenAI, http: httpx2.Client) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=[33, 28, 216, 34, 28], temperature=0, max_tokens=3
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


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


def test_long_prompt_may_be_cut_at_its_beginning(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "prompt": "zero " * 600 + "1, 2, 3, 4,", "max_tokens": 2}
    body |= {"truncate_prompt_tokens": 12, "temperature": 0}
    answer = http.post("/v1/completions", json=body).json()
    assert answer["usage"]["prompt_tokens"] == 12
    assert answer["choices"][0]["text"] == " 5"


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
