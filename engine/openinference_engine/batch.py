"""A step as tensors: what the model reads, built from the chunks once for all layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine.ops import AttentionPlan
from openinference_engine.step import Chunk


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
    """Whole arrays instead of a few small ones per chunk: a step may hold hundreds of them."""
    counts = np.array([len(chunk.token_ids) for chunk in chunks])
    firsts = np.array([chunk.start for chunk in chunks])
    starts = np.concatenate([[0], counts.cumsum()])
    blocks = _block_table(chunks)
    sequences = np.arange(len(chunks)).repeat(counts)  # of each token
    positions = np.arange(starts[-1]) + (firsts - starts[:-1])[sequences]
    slots = blocks[sequences, positions // block_size].astype(np.int64) * block_size
    return Batch(
        token_ids=torch.tensor([token for chunk in chunks for token in chunk.token_ids]),
        positions=torch.from_numpy(positions),
        attention=AttentionPlan(
            slots=torch.from_numpy(slots + positions % block_size),
            starts=torch.from_numpy(starts.astype(np.int32)),
            lengths=torch.from_numpy((firsts + counts).astype(np.int32)),
            blocks=torch.from_numpy(blocks),
        ),
        logit_rows=torch.tensor(_logit_rows(chunks), dtype=torch.int64),
    )


def _block_table(chunks: list[Chunk]) -> npt.NDArray[np.int32]:
    """(chunks, most blocks of any): the blocks of each, then zeros."""
    width = max(len(chunk.block_ids) for chunk in chunks)
    table = np.zeros((len(chunks), width), dtype=np.int32)
    for row, chunk in zip(table, chunks, strict=True):
        row[: len(chunk.block_ids)] = chunk.block_ids
    return table


def _logit_rows(chunks: list[Chunk]) -> list[int]:
    rows: list[int] = []
    start = 0
    for chunk in chunks:
        rows.extend(range(start, start + len(chunk.targets)))
        start += len(chunk.token_ids)
        if chunk.draw is not None:
            rows.append(start - 1)
    return rows
