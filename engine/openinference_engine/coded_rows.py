"""Activations as e4m3 codes, one float32 scale a row: what fp8 weights meet.

A product's rows are one float8_e4m3fn tensor (columns / 128 + 1, rows up to a multiple of 4, 128):
for each 128 columns the codes of all rows, in the order of fp8's words; the last slab begins with
their scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.activation_codes import padded_rows, quantise
from openinference_engine.fp8 import BYTE_COLUMNS
from openinference_engine.tiles import GROUP_COLUMNS

MOST_COLUMNS = 65_536  # kMostColumns of csrc/cuda/code_rows.cu: a block holds a row in registers


def shape_of(rows: int, columns: int) -> tuple[int, int, int]:
    return columns // GROUP_COLUMNS + 1, padded_rows(rows), GROUP_COLUMNS


def code(x: Tensor, out: Tensor, factors: Tensor | float = 1.0) -> None:
    """out ← x times the factor of each row.

    x: (rows, columns) bf16; out as `shape_of` says; factors: (rows, 1) float32.
    """
    rows, columns = x.shape
    codes, scales = quantise(x, out.dtype, columns)
    out.view(torch.uint8)[:-1, :rows] = in_word_order(codes.view(rows, len(out) - 1, GROUP_COLUMNS))
    scales_of(out)[:rows] = (scales * factors)[:, 0]


def decode(coded: Tensor, rows: int) -> Tensor:
    """The (rows, columns) float32 that the codes stand for."""
    codes = in_column_order(coded.view(torch.uint8)[:-1, :rows])
    return codes.view(coded.dtype).float().flatten(1) * scales_of(coded)[:rows, None]


def scales_of(coded: Tensor) -> Tensor:
    """A view of the scales, (padded rows) float32, at the start of the last slab."""
    return coded[-1].view(torch.uint8).flatten()[: coded.shape[1] * 4].view(torch.float32)


def in_word_order(codes: Tensor) -> Tensor:
    """(rows, groups, 128) bytes → (groups, rows, 128) uint8, those of a lane's words together."""
    rows, groups, _ = codes.shape
    # row, group, run, t, word, place → group, row, run, word, t, byte
    places = codes.view(torch.uint8).view(rows, groups, 4, 4, 2, 4)[..., BYTE_COLUMNS]
    return places.permute(1, 0, 2, 4, 3, 5).reshape(groups, rows, GROUP_COLUMNS)


def in_column_order(codes: Tensor) -> Tensor:
    """What `in_word_order` was given, as uint8."""
    groups, rows, _ = codes.shape
    places = torch.empty(rows, groups, 4, 4, 2, 4, dtype=torch.uint8, device=codes.device)
    places[..., BYTE_COLUMNS] = codes.reshape(groups, rows, 4, 2, 4, 4).permute(1, 0, 2, 4, 3, 5)
    return places.view(rows, groups, GROUP_COLUMNS)
