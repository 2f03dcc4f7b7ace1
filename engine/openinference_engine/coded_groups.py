"""Activations as int8 codes, one float32 scale for each row of 128 columns: what int8 weights meet.

A product's rows are one tensor (columns / 128, rows up to a multiple of 4, 132) of int8: for each
128 columns the codes of all rows, in the order of int8's words, then their scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import coded_rows
from openinference_engine.activation_codes import padded_rows, quantise
from openinference_engine.tiles import GROUP_COLUMNS

_GROUP_BYTES = GROUP_COLUMNS + 4


def shape_of(rows: int, columns: int) -> tuple[int, int, int]:
    return columns // GROUP_COLUMNS, padded_rows(rows), _GROUP_BYTES


def code(x: Tensor, out: Tensor, factors: Tensor | float = 1.0) -> None:
    """out ← x times the factor of each row.

    x: (rows, columns) bf16; out as `shape_of` says; factors: (rows, 1) float32.
    """
    codes, scales = quantise(x, out.dtype, GROUP_COLUMNS)
    of_codes, of_scales = _parts(out)
    of_codes[:, : len(x)] = coded_rows.in_word_order(codes)
    of_scales[:, : len(x)] = (scales * factors).T


def decode(coded: Tensor, rows: int) -> Tensor:
    """The (rows, columns) float32 that the codes stand for."""
    codes, scales = _parts(coded)
    values = coded_rows.in_column_order(codes[:, :rows]).view(coded.dtype).float()
    return (values * scales[:, :rows].T[:, :, None]).flatten(1)


def _parts(coded: Tensor) -> tuple[Tensor, Tensor]:
    """Views of the codes, (groups, padded rows, 128) uint8, and of the scales."""
    groups, padded, _ = coded.shape
    flat = coded.view(torch.uint8).flatten()
    codes = flat.view(groups, padded * _GROUP_BYTES)[:, : padded * GROUP_COLUMNS]
    words = flat.view(torch.float32).view(groups, padded * _GROUP_BYTES // 4)
    return codes.view(groups, padded, GROUP_COLUMNS), words[:, padded * GROUP_COLUMNS // 4 :]
