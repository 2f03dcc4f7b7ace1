"""The rows of a step with prompts, and which of its sequences attend together.

Without torch where it would divide a few numbers among all processors (`repeat_interleave`,
`searchsorted`): that takes 15 ms where these are busy (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ops.plan import NO_WINDOW

Part = tuple[list[int], int, list[int]]  # token ids, position of the first, blocks
Parts = list[Part]


@dataclass(frozen=True, slots=True)
class Reading:
    """Sequences that attend together.

    starts: (S + 1,), the first row of each, then the row behind the last. lengths: (S,), positions
    each holds after this step. pages: (S, P). longest: rows of the largest chunk. blocks: (N,),
    those of the cache that the copy holds; `pages` then counts the copy's.
    """

    starts: Tensor
    lengths: Tensor
    pages: Tensor
    longest: int
    blocks: Tensor | None


@dataclass(frozen=True, slots=True)
class Chunks:
    """R rows of several sequences, laid end to end; all int32 on the device.

    tokens, positions: (R,). row_pages: (R, P), the pages of each row's sequence. num_single: how
    many of the first sequences have one row, which attends alone. readings: of the others, by the
    window of a layer.
    """

    tokens: Tensor
    positions: Tensor
    row_pages: Tensor
    num_single: int
    readings: dict[int, list[Reading]]


def send(values: Tensor, device: torch.device) -> Tensor:
    """A copy there, once what is queued before has ended; the host does not wait for that."""
    if device.type == "cuda":
        values = values.pin_memory()  # torch keeps such memory until the copy has passed
    return values.to(device, non_blocking=True)


def chunks_of(
    parts: Parts,
    device: torch.device,
    room: int | None = None,
    windows: Collection[int] = (NO_WINDOW,),
) -> Chunks:
    """room: blocks of the copy that is read instead of the cache, if there is one. windows: those
    that layers have."""

    def there(values: Tensor) -> Tensor:
        return send(values.int(), device)

    def sent(reading: Reading) -> Reading:
        return replace(
            reading,
            starts=there(reading.starts),
            lengths=there(reading.lengths),
            pages=there(reading.pages),
            blocks=None if reading.blocks is None else there(reading.blocks),
        )

    counts = [len(token_ids) for token_ids, _, _ in parts]
    positions = [first + row for token_ids, first, _ in parts for row in range(len(token_ids))]
    sequences = np.repeat(np.arange(len(parts)), counts)
    num_single = sum(1 for _ in takewhile(lambda count: count == 1, counts))
    return Chunks(
        tokens=there(
            torch.tensor([token_id for token_ids, _, _ in parts for token_id in token_ids])
        ),
        positions=there(torch.tensor(positions)),
        row_pages=there(table_of(parts))[send(torch.from_numpy(sequences), device)],
        num_single=num_single,
        readings={
            window: list(map(sent, readings_of(parts[num_single:], room, num_single, window)))
            for window in set(windows)
        },
    )


def readings_of(
    parts: Parts, room: int | None, first_row: int = 0, window: int = NO_WINDOW
) -> Iterator[Reading]:
    """Of sequences whose rows begin at `first_row`, on the host. room: as in `chunks_of`."""
    for group in _groups([_seen(part, window) for part in parts], room):
        counts = torch.tensor([0, *(len(token_ids) for token_ids, _, _ in group)])
        starts = first_row + counts.cumsum(0)
        lengths = torch.tensor([first + len(token_ids) for token_ids, first, _ in group])
        pages, blocks = table_of(group), None
        if room is not None:
            blocks = torch.tensor(sorted({block for part in group for block in part[2]}))
            pages = torch.from_numpy(np.searchsorted(blocks.numpy(), pages.numpy()))
        yield Reading(starts, lengths, pages, int(counts.max()), blocks)
        first_row = int(starts[-1])


def table_of(parts: Parts) -> Tensor:
    """(S, P) int64, the blocks of each sequence; its last one stands for those it does not have."""
    width = max(len(block_ids) for _, _, block_ids in parts)
    return torch.tensor([ids + ids[-1:] * (width - len(ids)) for _, _, ids in parts])


def _seen(part: Part, window: int) -> Part:
    """With the first block that a row sees in place of those before it, which may be another's."""
    token_ids, first, block_ids = part
    num_hidden = max(first + 1 - window, 0) // PAGE_TOKENS
    return token_ids, first, [block_ids[num_hidden]] * num_hidden + block_ids[num_hidden:]


def _groups(parts: Parts, room: int | None) -> Iterator[Parts]:
    """As many in a row as have their blocks, of which they may share some, in the copy at once."""
    group: Parts = []
    blocks: set[int] = set()
    for part in parts:
        both = blocks.union(part[2])
        if group and room is not None and len(both) > room:
            yield group
            group, both = [], set(part[2])
        group.append(part)
        blocks = both
    if group:
        yield group
