"""The order of rows in packed weights: tiles of 16, as the kernels' epilogues walk over them.

What a packed format (packings.py) needs to know of csrc/cuda: which rows share a tile, because
an epilogue works on pairs of rows that may lie far apart in the matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE_ROWS = 16
GROUP_COLUMNS = 128  # columns behind one scale


def plain_order(rows: int) -> Tensor:
    """Tiles of consecutive rows: output and down projections, LM head."""
    return torch.arange(rows)


def gate_up_order(rows: int) -> Tensor:
    """Eight rows of gate, then the same eight of up."""
    return torch.arange(rows).view(2, -1, 8).transpose(0, 1).flatten()


def qkv_order(rows: int, head_dim: int) -> Tensor:
    """Eight rows of a head's first half, then the eight that lie half a head behind them."""
    return torch.arange(rows).view(-1, 2, head_dim // 16, 8).transpose(1, 2).flatten()


def pad_rows(matrix: Tensor) -> Tensor:
    """The matrix with zero rows up to whole tiles; the same tensor if there is nothing to add."""
    missing = -len(matrix) % TILE_ROWS
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


def pack_units(words: Tensor, scales: Tensor, row_order: Tensor) -> Tensor:
    """(tiles, groups, bytes) uint8: each unit's words as they lie, then its 16 scales.

    words: (tiles, groups, …) int32; scales: (rows, groups) bf16, in the matrix's own order.
    """
    flat = words.reshape(*words.shape[:2], -1).contiguous()
    return torch.cat([flat.view(torch.uint8), pack_halves(scales, row_order)], dim=2)


def unpack_units(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The words, flat in each unit, and scales that `pack_units` was given."""
    scale_bytes = 2 * TILE_ROWS
    words = units[:, :, :-scale_bytes].contiguous().view(torch.int32)
    return words, unpack_halves(units[:, :, -scale_bytes:], row_order)


def pack_halves(values: Tensor, row_order: Tensor) -> Tensor:
    """(tiles, groups, 32) uint8: a unit's 16 values, those of rows g and g + 8 beside each other.

    values: (rows, groups) bf16, in the matrix's own order.
    """
    groups = values.shape[1]
    pairs = values[row_order].view(-1, 2, 8, groups).permute(0, 3, 2, 1)
    return pairs.reshape(len(pairs), groups, -1).contiguous().view(torch.uint8)


def unpack_halves(packed: Tensor, row_order: Tensor) -> Tensor:
    """The values that `pack_halves` was given."""
    tiles, groups, _ = packed.shape
    pairs = packed.contiguous().view(torch.bfloat16).view(tiles, groups, 8, 2)
    values = torch.empty(tiles * TILE_ROWS, groups, dtype=torch.bfloat16, device=packed.device)
    values[row_order] = pairs.permute(0, 3, 2, 1).reshape(-1, groups)
    return values
