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
    """The chunks of a step laid end to end: T tokens, of which S draw the next one.

    token_ids, positions: (T,) int64.
    attention: which cached positions each token sees.
    drawing_rows: (S,) int64, rows whose logits are wanted.
    """

    token_ids: Tensor
    positions: Tensor
    attention: AttentionPlan
    drawing_rows: Tensor


def build_batch(chunks: list[Chunk], block_size: int) -> Batch:
    starts = np.cumsum([0, *(len(chunk.token_ids) for chunk in chunks)])
    slots = [_slots(chunk, block_size) for chunk in chunks]
    drawing = [end - 1 for end, chunk in zip(starts[1:], chunks, strict=True) if chunk.draw]
    positions = [
        np.arange(chunk.start, len(seen)) for chunk, seen in zip(chunks, slots, strict=True)
    ]
    return Batch(
        token_ids=torch.tensor([token for chunk in chunks for token in chunk.token_ids]),
        positions=torch.from_numpy(np.concatenate(positions)),
        attention=_attention_plan(chunks, starts, slots),
        drawing_rows=torch.tensor(drawing, dtype=torch.int64),
    )


def _slots(chunk: Chunk, block_size: int) -> _Slots:
    """Cache slots of all positions up to the chunk's last."""
    blocks = np.asarray(chunk.block_ids, dtype=np.int64)[:, None] * block_size
    return (blocks + np.arange(block_size)).reshape(-1)[: chunk.start + len(chunk.token_ids)]


def _attention_plan(
    chunks: list[Chunk], starts: npt.NDArray[np.int64], slots: list[_Slots]
) -> AttentionPlan:
    is_single = [len(chunk.token_ids) == 1 for chunk in chunks]
    new_slots = [seen[chunk.start :] for chunk, seen in zip(chunks, slots, strict=True)]
    single_slots, single_mask = _pad(
        [s for s, single in zip(slots, is_single, strict=True) if single]
    )
    return AttentionPlan(
        slots=torch.from_numpy(np.concatenate(new_slots)),
        context=tuple(
            (int(starts[index]), int(starts[index + 1]), torch.from_numpy(slots[index]))
            for index, single in enumerate(is_single)
            if not single
        ),
        single_rows=torch.from_numpy(starts[:-1][is_single]),
        single_slots=torch.from_numpy(single_slots),
        single_mask=torch.from_numpy(single_mask)[:, None, None, :],
    )


def _pad(rows: list[_Slots]) -> tuple[_Slots, npt.NDArray[np.bool_]]:
    """Rows of unequal length as a rectangle, filled up with their last slot; and what is real."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    longest = int(lengths.max(initial=0))
    padded = np.empty((len(rows), longest), dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        padded[index, len(row) :] = row[-1]
    return padded, np.arange(longest) < lengths[:, None]
