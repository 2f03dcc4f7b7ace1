"""Weights in four bits: symmetric codes, one bf16 scale per row and 128 columns, round to nearest.

`quantise` decides the numbers, `pack` their order in memory: that of csrc/cuda/int4_weights.cuh,
tile by tile in the order in which an op walks over its rows. Works on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_COLUMNS = 128
TILE_ROWS = 16
UNIT_BYTES = TILE_ROWS * GROUP_COLUMNS // 2 + TILE_ROWS * 2


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix ≈ (codes − 8) · scale, for matrix: (rows, columns).

    codes: (rows, columns) uint8 in 0..15; scales: (rows, columns / 128) bf16. The value of largest
    magnitude of a group becomes −8 exactly, up to the rounding of its scale.
    """
    groups = matrix.float().view(len(matrix), -1, GROUP_COLUMNS)
    largest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
    scales = (largest / -8).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    codes = (groups / divisors).round().clamp(-8, 7) + 8
    return codes.to(torch.uint8).view(matrix.shape), scales[:, :, 0]


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The float32 matrix that codes and scales stand for."""
    groups = codes.float().view(len(codes), -1, GROUP_COLUMNS) - 8
    return (groups * scales.float()[:, :, None]).view(codes.shape)


def pack(codes: Tensor, scales: Tensor, row_order: Tensor) -> Tensor:
    """Units (rows / 16, columns / 128, 1056) uint8.

    row_order: (rows,); tile i holds the rows row_order[16 i : 16 i + 16].
    """
    tiles, groups = len(codes) // TILE_ROWS, codes.shape[1] // GROUP_COLUMNS
    # row = half·8 + g; column = run·64 + t·16 + word·8 + pair·2 + odd
    nibbles = codes[row_order].view(tiles, 2, 8, groups, 2, 4, 2, 4, 2).int()
    shifts = 4 * (torch.arange(4)[:, None] + 4 * torch.arange(2)).to(codes.device)  # (pair, odd)
    words = (nibbles << shifts).sum(
        dim=(7, 8)
    )  # (tile, half, g, group, run, t, word), wraps to int32
    # in memory: tile, group, run, g, t, half, word
    words = words.to(torch.int32).permute(0, 3, 4, 2, 5, 1, 6)
    scale_pairs = scales[row_order].view(tiles, 2, 8, groups).permute(0, 3, 2, 1)
    parts = (words.reshape(tiles, groups, -1), scale_pairs.reshape(tiles, groups, -1))
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=2)


def unpack(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales that `pack` was given."""
    tiles, groups, _ = units.shape
    words = units[:, :, :1024].contiguous().view(torch.int32).view(tiles, groups, 2, 8, 4, 2, 2)
    words = words.permute(0, 5, 3, 1, 2, 4, 6)
    shifts = 4 * (torch.arange(4)[:, None] + 4 * torch.arange(2)).to(units.device)
    nibbles = words[..., None, None] >> shifts & 15
    rows, columns = tiles * TILE_ROWS, groups * GROUP_COLUMNS
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=units.device)
    codes[row_order] = nibbles.reshape(rows, columns).to(torch.uint8)
    scale_pairs = units[:, :, 1024:].contiguous().view(torch.bfloat16).view(tiles, groups, 8, 2)
    scales = torch.empty(rows, groups, dtype=torch.bfloat16, device=units.device)
    scales[row_order] = scale_pairs.permute(0, 3, 2, 1).reshape(rows, groups)
    return codes, scales


def plain_order(rows: int) -> Tensor:
    """Tiles of consecutive rows: output and down projections, LM head."""
    return torch.arange(rows)


def gate_up_order(rows: int) -> Tensor:
    """Eight rows of gate, then the same eight of up."""
    return torch.arange(rows).view(2, -1, 8).transpose(0, 1).flatten()


def qkv_order(rows: int, head_dim: int) -> Tensor:
    """Eight rows of a head's first half, then the eight that lie half a head behind them."""
    return torch.arange(rows).view(-1, 2, head_dim // 16, 8).transpose(1, 2).flatten()
