"""Log-probabilities of drawn and prompt tokens, beside those of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.results import TokenLogprobs
from openinference_engine.sampling import rate
from openinference_engine.scheduler import Drawn

PROMPT = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 33] * 3
TOLERANCE = 1e-4  # two float32 implementations


@pytest.fixture(scope="module")
def tiny_oracle(tiny_llama: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def run_one(make_tiny_engine: Callable[..., Engine]) -> Callable[..., tuple[Request, list[Drawn]]]:
    """One greedy request through an engine with these settings, and what it drew."""

    def run(params: dict[str, Any], **settings: Any) -> tuple[Request, list[Drawn]]:
        request = Request("r", PROMPT, SamplingParams(0, 6, temperature=0, **params))
        engine = make_tiny_engine(**settings)
        engine.add(request)
        return request, list(steps(engine))

    return run


def steps(engine: Engine) -> Iterator[Drawn]:
    while engine.has_work:
        yield from engine.step()


def expected_logprobs(oracle: Any, token_ids: list[int]) -> torch.Tensor:
    """(T - 1, vocab): row i is of the token at i + 1."""
    with torch.inference_mode():
        return oracle(torch.tensor([token_ids])).logits[0, :-1].double().log_softmax(-1)


def assert_rates(rated: list[TokenLogprobs], expected: torch.Tensor, token_ids: list[int]) -> None:
    """`rated` says of each row what `expected` does: the token's, its rank and the best three."""
    for one, row, token_id in zip(rated, expected, token_ids, strict=True):
        assert one.logprob == pytest.approx(float(row[token_id]), abs=TOLERANCE)
        assert one.rank == int((row > row[token_id]).sum()) + 1
        top = row.topk(3)
        assert one.top_ids == top.indices.tolist()
        assert one.top_logprobs == pytest.approx(top.values.tolist(), abs=TOLERANCE)


def test_drawn_tokens_are_rated_as_transformers_does(run_one: Any, tiny_oracle: Any) -> None:
    request, drawn = run_one({"num_logprobs": 3, "logit_bias": {5: 100.0}})
    rated = [one.logprobs for one in drawn]
    outputs = [one.token_id for one in drawn]
    expected = expected_logprobs(tiny_oracle, request.token_ids)[len(PROMPT) - 1 :]
    assert_rates(rated, expected, outputs)
    assert any(one.rank > 1 for one in rated)  # the numbers are those before the bias


@pytest.mark.parametrize("settings", [{}, {"max_step_tokens": 17}, {"max_step_tokens": 1}])
def test_prompt_is_rated_whatever_its_chunks(
    run_one: Any, tiny_oracle: Any, settings: dict[str, Any]
) -> None:
    request, _ = run_one({"num_prompt_logprobs": 3}, **settings)
    assert_rates(request.prompt_logprobs, expected_logprobs(tiny_oracle, PROMPT), PROMPT[1:])


def test_prompt_is_rated_whole_although_the_cache_knows_it(
    make_tiny_engine: Callable[..., Engine],
) -> None:
    engine = make_tiny_engine()
    for number in range(2):
        params = SamplingParams(0, 1, num_prompt_logprobs=0)
        request = Request(f"r{number}", PROMPT, params)
        engine.add(request)
        list(steps(engine))
        assert len(request.prompt_logprobs) == len(PROMPT) - 1
        assert request.num_cached == 0


def test_preempted_prompt_is_rated_once(make_tiny_engine: Callable[..., Engine]) -> None:
    """A more urgent request takes the only seat half-way through the prompt."""
    engine = make_tiny_engine(max_sequences=1, max_step_tokens=17)
    alone = Request("alone", PROMPT, SamplingParams(0, 3, temperature=0, num_prompt_logprobs=1))
    engine.add(alone)
    list(steps(engine))
    late = Request(
        "late", PROMPT, SamplingParams(0, 3, temperature=0, num_prompt_logprobs=1), due=9.0
    )
    engine.add(late)
    engine.step()
    engine.add(Request("urgent", [5], SamplingParams(0, 2), due=1.0))
    list(steps(engine))
    assert engine.scheduler.num_preemptions == 1
    assert late.prompt_logprobs == alone.prompt_logprobs


def test_equal_tokens_are_rated_by_the_lower_id() -> None:
    logits = torch.zeros(1, 4096)
    logits[0, 1::2] = 1.0
    (one,) = rate(logits, [7], 20)
    assert one.top_ids == list(range(1, 40, 2))
    assert one.rank == 1
    assert len(set(one.top_logprobs)) == 1
    assert rate(logits[:, :3], [0], 20)[0].top_ids == [1, 0, 2]


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([-torch.inf] * 4, [-math.log(4)] * 4),
        ([torch.nan] * 4, [-math.log(4)] * 4),
        ([0.0, -torch.inf, 0.0, torch.nan], [-math.log(2), -9999.0, -math.log(2), -9999.0]),
        ([torch.inf, 0.0, torch.inf, 1.0], [-math.log(2), -9999.0, -math.log(2), -9999.0]),
    ],
)
def test_rated_are_finite_numbers_whatever_the_logits(
    logits: list[float], expected: list[float]
) -> None:
    """JSON knows no others."""
    rated = [rate(torch.tensor([logits]), [token_id], 2)[0] for token_id in range(4)]
    assert [one.logprob for one in rated] == pytest.approx(expected)
    assert rated[0].top_logprobs == pytest.approx(sorted(expected)[:1:-1])


def test_rating_does_not_depend_on_the_other_rows() -> None:
    logits = torch.randn(7, 1001, generator=torch.Generator().manual_seed(3)) * 5
    token_ids = [int(row.argmin()) for row in logits]
    alone = [rate(logits[i : i + 1].clone(), token_ids[i : i + 1], 5)[0] for i in range(7)]
    assert rate(logits, token_ids, 5) == alone
    assert [one.rank for one in alone] == [1001] * 7
