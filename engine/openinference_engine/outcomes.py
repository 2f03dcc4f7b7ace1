"""What the rows of a step brought, and the result of the step that is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from openinference_engine.errors import EngineError
from openinference_engine.launches import LOST_TOKEN
from openinference_engine.results import StepResult, TokenLogprobs
from openinference_engine.rows import Row
from openinference_engine.sampling import rate, rate_drawn, sample
from openinference_engine.step import Step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row brought: the token drawn and how likely it was, and that of its target."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    rated: TokenLogprobs | None = None


def require_numbers(rows: list[Row], tokens: list[int]) -> None:
    """Raises EngineError if one that somebody waits for had no logit to choose from."""
    for row, token in zip(rows, tokens, strict=True):
        if not row.is_awaited or token >= 0:
            continue
        if token == LOST_TOKEN:
            raise EngineError("another rank of this group did not answer in time")
        raise EngineError(f"request {row.request_id}: its logits are not numbers")


def outcome_of(row: Row, logits: Tensor, likeliest: int) -> Outcome:
    """As the host draws and rates it. logits: (1, vocab), of this row; likeliest: their token."""
    rated = None if row.target is None else rate(logits, [row.target], row.num_top)[0]
    if row.draw is None:
        return Outcome(likeliest, rated=rated)
    token_id = sample(logits, [row.draw])[0]
    return Outcome(token_id, rate_drawn(logits, [token_id], [row.draw])[0], rated)


def result_of(step: Step, rows: list[Row], outcomes: list[Outcome]) -> StepResult:
    drawn = [outcome for row, outcome in zip(rows, outcomes, strict=True) if row.draw is not None]
    rated = _rated_by_chunk(step, iter(outcomes))
    return StepResult(
        [outcome.token_id for outcome in drawn],
        [outcome.logprobs for outcome in drawn],
        list(rated),
    )


def _rated_by_chunk(step: Step, outcomes: Iterator[Outcome]) -> Iterator[list[TokenLogprobs]]:
    for chunk in step.chunks:
        of_chunk = list(islice(outcomes, len(chunk.token_ids)))
        if chunk.targets:
            yield [outcome.rated for outcome in of_chunk if outcome.rated is not None]
