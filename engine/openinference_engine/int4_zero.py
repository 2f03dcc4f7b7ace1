"""Weights in four bits between the least and the largest of a group: with a whole zero.

As int4.py, but a group's codes need not lie around 8: `zeros`, 0 to 16, is the code that means 0.
The order in memory is that of csrc/cuda/int4_zero_weights.cuh.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import int4
from openinference_engine.tiles import GROUP_COLUMNS, TILE_ROWS, pack_halves, unpack_halves

UNIT_BYTES = int4.UNIT_BYTES + TILE_ROWS * 2
_PART_BYTES = [int4.UNIT_BYTES - TILE_ROWS * 2, TILE_ROWS * 2]  # of int4: codes, scales
_LAST = 15
_OFFSET = 128  # in memory a zero is 128 more, as the kernels subtract it


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """matrix ≈ (codes − zeros) · scale, for matrix: (rows, columns).

    codes: (rows, columns) uint8 in 0..15; scales: (rows, columns / 128) bf16; zeros: the same,
    uint8.
    """
    groups = matrix.float().view(len(matrix), -1, GROUP_COLUMNS)
    low = groups.amin(dim=2, keepdim=True).clamp(max=0)
    scales = ((groups.amax(dim=2, keepdim=True).clamp(min=0) - low) / _LAST).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    zeros = (-low / divisors).round().clamp(0, _LAST)
    codes = ((groups / divisors).round() + zeros).clamp(0, _LAST).to(torch.uint8)
    return codes.view(matrix.shape), scales[:, :, 0], zeros[:, :, 0].to(torch.uint8)


def dequantise(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """The float32 matrix that codes, scales and zeros stand for."""
    groups = codes.float().view(len(codes), -1, GROUP_COLUMNS) - zeros.float()[:, :, None]
    return (groups * scales.float()[:, :, None]).view(codes.shape)


def pack(codes: Tensor, scales: Tensor, zeros: Tensor, row_order: Tensor) -> Tensor:
    """Units (rows / 16, columns / 128, 1088) uint8; row_order as in `int4.pack`."""
    offsets = pack_halves((zeros.float() + _OFFSET).bfloat16(), row_order)
    units = int4.pack(codes, scales, row_order)
    code_bytes, scale_bytes = torch.split(units, _PART_BYTES, dim=2)
    pairs = [part.view(*part.shape[:2], 8, 4) for part in (scale_bytes, offsets)]
    return torch.cat([code_bytes, torch.cat(pairs, dim=3).flatten(2)], dim=2)


def unpack(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The codes, scales and zeros that `pack` was given."""
    code_bytes, pairs = units.tensor_split([_PART_BYTES[0]], dim=2)
    words = pairs.reshape(*pairs.shape[:2], 8, 8)
    scale_bytes, offsets = words[..., :4].flatten(2), words[..., 4:].flatten(2)
    codes, scales = int4.unpack(torch.cat([code_bytes, scale_bytes], dim=2), row_order)
    zeros = unpack_halves(offsets, row_order).float() - _OFFSET
    return codes, scales, zeros.to(torch.uint8)
