"""A step as tensors: what the model reads, built from the chunks once for all layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine.ops import AttentionPlan
from openinference_engine.scheduler import Chunk

_Slots = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """The chunks of a step laid end to end: T tokens, of which S have their logits read.

    token_ids, positions: (T,) int64.
    attention: which cached positions each token sees.
    logit_rows: (S,) int64; for each chunk, the rows before its targets, then the one that draws.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionPlan
    logit_rows: Tensor


def build_batch(chunks: list[Chunk], block_size: int) -> Batch:
    starts = np.cumsum([0, *(len(chunk.token_ids) for chunk in chunks)])
    slots = [_slots(chunk, block_size) for chunk in chunks]
    positions = [np.arange(chunk.start, chunk.start + len(chunk.token_ids)) for chunk in chunks]
    return Batch(
        token_ids=torch.tensor([token for chunk in chunks for token in chunk.token_ids]),
        positions=torch.from_numpy(np.concatenate(positions)),
        attention=_attention_plan(chunks, starts, slots),
        logit_rows=torch.tensor(_logit_rows(chunks), dtype=torch.int64),
    )


def _logit_rows(chunks: list[Chunk]) -> list[int]:
    rows: list[int] = []
    start = 0
    for chunk in chunks:
        rows.extend(range(start, start + len(chunk.targets)))
        start += len(chunk.token_ids)
        if chunk.draw is not None:
            rows.append(start - 1)
    return rows


def _slots(chunk: Chunk, block_size: int) -> _Slots:
    """Cache slots of the chunk's own positions."""
    positions = np.arange(chunk.start, chunk.start + len(chunk.token_ids))
    blocks = np.asarray(chunk.block_ids, dtype=np.int64)[positions // block_size]
    return blocks * block_size + positions % block_size


def _attention_plan(
    chunks: list[Chunk], starts: npt.NDArray[np.int64], slots: list[_Slots]
) -> AttentionPlan:
    lengths = [chunk.start + len(chunk.token_ids) for chunk in chunks]
    blocks = np.zeros((len(chunks), max(len(chunk.block_ids) for chunk in chunks)), dtype=np.int32)
    for row, chunk in zip(blocks, chunks, strict=True):
        row[: len(chunk.block_ids)] = chunk.block_ids
    return AttentionPlan(
        slots=torch.from_numpy(np.concatenate(slots)),
        starts=torch.from_numpy(starts.astype(np.int32)),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        blocks=torch.from_numpy(blocks),
    )
