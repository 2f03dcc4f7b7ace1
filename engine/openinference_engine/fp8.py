"""Weights in eight bits: e4m3 codes, one bf16 scale per row and 128 columns, round to nearest.

The same division of work as int4.py; the order in memory is that of csrc/cuda/fp8_weights.cuh.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.tiles import GROUP_COLUMNS, TILE_ROWS, pack_units, unpack_units

UNIT_BYTES = TILE_ROWS * GROUP_COLUMNS + TILE_ROWS * 2
_LARGEST = 448.0  # of e4m3
BYTE_COLUMNS = [2, 0, 3, 1]  # which of a word's four columns its bytes 0 to 3 hold


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix ≈ codes · scale, for matrix: (rows, columns).

    codes: (rows, columns) uint8, the bits of e4m3; scales: (rows, columns / 128) bf16.
    """
    groups = matrix.float().view(len(matrix), -1, GROUP_COLUMNS)
    scales = (groups.abs().amax(dim=2, keepdim=True) / _LARGEST).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    codes = (groups / divisors).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return codes.view(torch.uint8).view(matrix.shape), scales[:, :, 0]


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The float32 matrix that codes and scales stand for."""
    groups = codes.view(torch.float8_e4m3fn).float().view(len(codes), -1, GROUP_COLUMNS)
    return (groups * scales.float()[:, :, None]).view(codes.shape)


def pack(codes: Tensor, scales: Tensor, row_order: Tensor) -> Tensor:
    """Units (rows / 16, columns / 128, 2080) uint8; row_order as in `int4.pack`."""
    tiles, groups = len(codes) // TILE_ROWS, codes.shape[1] // GROUP_COLUMNS
    # row = half·8 + g; column = run·32 + t·8 + word·4 + place
    places = codes[row_order].view(tiles, 2, 8, groups, 4, 4, 2, 4)[..., BYTE_COLUMNS]
    words = places.contiguous().view(torch.int32)[..., 0]
    # in memory: tile, group, run, g, t, half, word
    return pack_units(words.permute(0, 3, 4, 2, 5, 1, 6), scales, row_order)


def unpack(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales that `pack` was given."""
    tiles, groups, _ = units.shape
    words, scales = unpack_units(units, row_order)
    words = words.view(tiles, groups, 4, 8, 4, 2, 2).permute(0, 5, 3, 1, 2, 4, 6)
    places = torch.empty(*words.shape, 4, dtype=torch.uint8, device=units.device)
    places[..., BYTE_COLUMNS] = words.contiguous().view(torch.uint8).view(*words.shape, 4)
    rows, columns = tiles * TILE_ROWS, groups * GROUP_COLUMNS
    codes = torch.empty(rows, columns, dtype=torch.uint8, device=units.device)
    codes[row_order] = places.reshape(rows, columns)
    return codes, scales
