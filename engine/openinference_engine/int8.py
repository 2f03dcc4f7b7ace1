"""Weights in eight bits: whole codes, one bf16 scale per row and 128 columns, round to nearest.

The same division of work as int4.py. Bytes lie in memory as those of fp8.py do, in units of int8
elements, by which kernels tell the two apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import fp8
from openinference_engine.tiles import GROUP_COLUMNS

UNIT_BYTES = fp8.UNIT_BYTES
_LARGEST = 127


def quantise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """matrix ≈ codes · scale, for matrix: (rows, columns).

    codes: (rows, columns) int8 in ±127; scales: (rows, columns / 128) bf16.
    """
    groups = matrix.float().view(len(matrix), -1, GROUP_COLUMNS)
    scales = (groups.abs().amax(dim=2, keepdim=True) / _LARGEST).bfloat16()
    divisors = torch.where(scales == 0, 1, scales.float())
    codes = (groups / divisors).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
    return codes.view(matrix.shape), scales[:, :, 0]


def dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    """The float32 matrix that codes and scales stand for."""
    groups = codes.float().view(len(codes), -1, GROUP_COLUMNS)
    return (groups * scales.float()[:, :, None]).view(codes.shape)


def pack(codes: Tensor, scales: Tensor, row_order: Tensor) -> Tensor:
    """Units (rows / 16, columns / 128, 2080) int8; row_order as in `int4.pack`."""
    return fp8.pack(codes.view(torch.uint8), scales, row_order).view(torch.int8)


def unpack(units: Tensor, row_order: Tensor) -> tuple[Tensor, Tensor]:
    """The codes and scales that `pack` was given."""
    codes, scales = fp8.unpack(units.view(torch.uint8), row_order)
    return codes.view(torch.int8), scales
