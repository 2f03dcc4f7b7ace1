"""Weights in four bits: symmetric codes, one bf16 scale per row and 128 columns, round to nearest.

`quantise` decides the numbers, `pack` their order in memory: that of csrc/cuda/int4_weights.cuh,
tile by tile in a row order of tiles.py. Works on any device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.tiles import GROUP_COLUMNS, TILE_ROWS, pack_units, unpack_units

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
    words = (nibbles << _shifts(codes.device)).sum(dim=(7, 8)).to(torch.int32)
    # in memory: tile, group, run, g, t, half, word
    return pack_units(words.permute(0, 3, 4, 2, 5, 1, 6), scales, row_order)


def unpack(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales that `pack` was given."""
    tiles, groups, _ = units.shape
    words, scales = unpack_units(units, row_order)
    words = words.view(tiles, groups, 2, 8, 4, 2, 2).permute(0, 5, 3, 1, 2, 4, 6)
    nibbles = words[..., None, None] >> _shifts(units.device) & 15
    rows, columns = tiles * TILE_ROWS, groups * GROUP_COLUMNS
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=units.device)
    codes[row_order] = nibbles.reshape(rows, columns).to(torch.uint8)
    return codes, scales


def _shifts(device: torch.device) -> Tensor:
    """(pair, odd): where in a word the columns 2·pair and 2·pair + 1 are."""
    return (4 * (torch.arange(4)[:, None] + 4 * torch.arange(2))).to(device)
