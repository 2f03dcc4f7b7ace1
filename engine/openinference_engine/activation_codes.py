"""Activations as codes of eight bits, which the codes of weights are multiplied by on Hopper.

A row's order in memory is that of the weights it meets: coded_rows.py (fp8's), summed_rows.py
(int4's) and coded_groups.py (int8's).
"""

from __future__ import annotations

import torch
from torch import Tensor

CODE_TYPES = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
_MOST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}


def rounded(x: Tensor, dtype: torch.dtype, group_columns: int) -> Tensor:
    """What its codes of as many columns each stand for, in float32."""
    codes, scales = quantise(x, dtype, group_columns)
    return (codes.float() * scales[:, :, None]).view(x.shape)


def quantise(x: Tensor, dtype: torch.dtype, group_columns: int) -> tuple[Tensor, Tensor]:
    """Codes (rows, groups, columns of one) and scales (rows, groups) float32."""
    rows, columns = x.shape
    groups, most = x.float().view(rows, columns // group_columns, group_columns), _MOST[dtype]
    largest = groups.abs().amax(dim=2, keepdim=True)
    most_of = torch.full_like(largest, most)  # a number is divided by, or divides, in other ways
    factors = torch.where(largest > 0, most_of / largest, 0)
    values = (groups * factors).clamp(-most, most)
    codes = values.round() if dtype == torch.int8 else values
    return codes.to(dtype), (largest / most_of)[:, :, 0]


def padded_rows(rows: int) -> int:
    return -(-rows // 4) * 4
