"""Runs steps on one rank: Step → tensors → model → drawn tokens. Owns the model and its cache.

Stateless between steps but for the cache: everything about a sequence arrives with its chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.batch import build_batch
from openinference_engine.config import DataType
from openinference_engine.layers.attention import KVCache
from openinference_engine.models.registry import Model
from openinference_engine.results import StepResult
from openinference_engine.sampling import embed, rate, rate_drawn, sample
from openinference_engine.step import Chunk, Step

# What weights become; "auto" keeps matrices as they are stored and makes the rest float32.
TORCH_DTYPES: dict[DataType, torch.dtype] = {
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Runner:
    def __init__(self, model: Model, cache: KVCache, block_size: int) -> None:
        self._model, self._cache, self._block_size = model, cache, block_size

    def warm_up(self, max_rows: int) -> None:
        """Nothing: what costs once is paid by the first step."""

    def run(self, step: Step) -> StepResult:
        """Computes all chunks, draws a token where one is due and rates what is to be rated."""
        return draw(step, *self.compute(step))

    @torch.inference_mode()
    def compute(self, step: Step) -> tuple[Tensor, Tensor]:
        """States, (S, hidden), and logits, (S, vocab), of `batch.Batch.logit_rows`."""
        batch = build_batch(step.chunks, self._block_size)
        hidden = self._model.layers(self._model.embed(batch), batch, self._cache)
        states = self._model.states(hidden, batch)
        return states, self._model.logits(states)


def draw(step: Step, states: Tensor, logits: Tensor) -> StepResult:
    """The tokens of a step, and all that was asked about them. Shapes: as `Runner.compute`."""
    drawing, rated = _rows_of(step.chunks)
    prompt_logprobs = [
        rate(logits[row : row + len(chunk.targets)], chunk.targets, chunk.num_top)
        for row, chunk in rated
    ]
    draws = [chunk.draw for chunk in step.chunks if chunk.draw is not None]
    if not draws:
        return StepResult([], [], prompt_logprobs)
    if rated:  # else every row draws
        states, logits = states[drawing], logits[drawing]
    token_ids = sample(logits, draws)
    return StepResult(
        token_ids, rate_drawn(logits, token_ids, draws), prompt_logprobs, embed(states, draws)
    )


def _rows_of(chunks: list[Chunk]) -> tuple[list[int], list[tuple[int, Chunk]]]:
    """Among the rows of logits: those that draw, and the first of each chunk with targets."""
    drawing: list[int] = []
    rated: list[tuple[int, Chunk]] = []
    row = 0
    for chunk in chunks:
        if chunk.targets:
            rated.append((row, chunk))
            row += len(chunk.targets)
        if chunk.draw is not None:
            drawing.append(row)
            row += 1
    return drawing, rated
