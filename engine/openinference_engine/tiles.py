"""The order of rows in packed weights: tiles of 16, as the kernels' epilogues walk over them.

What a packed format (int4.py, fp8.py) needs to know of csrc/cuda: which rows share a tile, because
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


def pack_units(words: Tensor, scales: Tensor, row_order: Tensor) -> Tensor:
    """(tiles, groups, bytes) uint8: each unit's words as they lie, then its 16 scales.

    words: (tiles, groups, …) int32; scales: (rows, groups) bf16, in the matrix's own order.
    """
    tiles, groups = words.shape[:2]
    pairs = scales[row_order].view(tiles, 2, 8, groups).permute(0, 3, 2, 1)  # rows g and g + 8
    parts = (words.reshape(tiles, groups, -1), pairs.reshape(tiles, groups, -1))
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=2)


def unpack_units(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The words, flat in each unit, and scales that `pack_units` was given."""
    tiles, groups, num_bytes = units.shape
    scale_bytes = 2 * TILE_ROWS
    words = units[:, :, : num_bytes - scale_bytes].contiguous().view(torch.int32)
    pairs = units[:, :, -scale_bytes:].contiguous().view(torch.bfloat16).view(tiles, groups, 8, 2)
    scales = torch.empty(tiles * TILE_ROWS, groups, dtype=torch.bfloat16, device=units.device)
    scales[row_order] = pairs.permute(0, 3, 2, 1).reshape(-1, groups)
    return words, scales
