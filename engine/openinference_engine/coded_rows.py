"""Activations as codes of eight bits: what products of weights of eight bits multiply on Hopper.

Each row of 128 columns has one float32 scale. A product's rows are one tensor (columns / 128,
rows up to a multiple of 4, 132) of float8_e4m3fn or int8: for each 128 columns the codes of all
rows, then their scales. Codes lie in the order of csrc/cuda/code_rows.cu, that of fp8.py's words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.fp8 import BYTE_COLUMNS
from openinference_engine.tiles import GROUP_COLUMNS

_GROUP_BYTES = GROUP_COLUMNS + 4
CODE_TYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
_MOST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


def shape_of(rows: int, columns: int) -> tuple[int, int, int]:
    return columns // GROUP_COLUMNS, _padded(rows), _GROUP_BYTES


def code(x: Tensor, out: Tensor, factors: Tensor | float = 1.0) -> None:
    """out ← x times the factor of each row.

    x: (rows, columns) bf16; out as `shape_of` says, of either type; factors: (rows, 1) float32.
    """
    rows = len(x)
    codes, scales = quantise(x, out.dtype, GROUP_COLUMNS)
    # row, group, run, t, word, place → group, row, run, word, t, byte
    places = codes.view(torch.uint8).view(rows, -1, 4, 4, 2, 4)[..., BYTE_COLUMNS]
    of_codes, of_scales = _parts(out)
    of_codes[:, :rows] = places.permute(1, 0, 2, 4, 3, 5).reshape(len(out), rows, GROUP_COLUMNS)
    of_scales[:, :rows] = (scales * factors).T


def rounded(x: Tensor, dtype: torch.dtype, group_columns: int = GROUP_COLUMNS) -> Tensor:
    """What its codes of as many columns each stand for, in float32."""
    codes, scales = quantise(x, dtype, group_columns)
    return (codes.float() * scales[:, :, None]).view(x.shape)


def decode(coded: Tensor, rows: int) -> Tensor:
    """The (rows, columns) float32 that the codes stand for."""
    codes, scales = _parts(coded)
    places = torch.empty(len(coded), rows, 4, 4, 2, 4, dtype=torch.uint8, device=coded.device)
    words = codes[:, :rows].reshape(len(coded), rows, 4, 2, 4, 4).transpose(3, 4)
    places[..., BYTE_COLUMNS] = words
    values = places.view(coded.dtype).view(len(coded), rows, GROUP_COLUMNS).float()
    return (values * scales[:, :rows, None]).transpose(0, 1).reshape(rows, -1)


def quantise(x: Tensor, dtype: torch.dtype, group_columns: int) -> tuple[Tensor, Tensor]:
    """Codes (rows, groups, columns of one) and scales (rows, groups) float32."""
    groups, most = x.float().view(len(x), -1, group_columns), _MOST[dtype]
    largest = groups.abs().amax(dim=2, keepdim=True)
    most_of = torch.full_like(largest, most)  # a number is divided by, or divides, in other ways
    factors = torch.where(largest > 0, most_of / largest, 0)
    values = (groups * factors).clamp(-most, most)
    codes = values.round() if dtype == torch.int8 else values
    return codes.to(dtype), (largest / most_of)[:, :, 0]


def _parts(coded: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the codes, (groups, padded rows, 128) uint8, and of the scales."""
    groups, padded, _ = coded.shape
    flat = coded.view(torch.uint8).view(groups, padded * _GROUP_BYTES)
    codes, scales = flat[:, : padded * GROUP_COLUMNS], flat[:, padded * GROUP_COLUMNS :]
    return codes.view(groups, padded, GROUP_COLUMNS), scales.view(torch.float32)


def _padded(rows: int) -> int:
    return -(-rows // 4) * 4
