"""Activations as e4m3 codes and their sums: what weights of four bits are multiplied by on Hopper.

One float32 scale a row. A product's rows are one float8_e4m3fn tensor (slabs, rows up to a multiple
of 4, 128), as csrc/cuda/coded_rows.cuh says: codes in the order of int4.py's nibbles, then the sums
of each 128 of them, then the scales.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.activation_codes import padded_rows, quantise
from openinference_engine.coded_rows import scales_of
from openinference_engine.tiles import GROUP_COLUMNS

_SUM_GROUPS = 32  # kSumGroups: as many groups' sums are as many bytes as a group's codes
# Byte i of word h of a lane is the nibble 2·i + h of its word, and nibbles n and n + 4 are a pair.
_NIBBLES = torch.arange(4) * 2 + torch.arange(2)[:, None]
_COLUMNS = (_NIBBLES % 4 * 2 + _NIBBLES // 4).flatten()  # of eight, by word and byte
_CODE_UNIT = 2.0**-9  # what a byte of 1 is in e4m3


def shape_of(rows: int, columns: int) -> tuple[int, int, int]:
    groups = columns // GROUP_COLUMNS
    return groups + _sum_slabs(groups) + 1, padded_rows(rows), GROUP_COLUMNS


def code(x: Tensor, out: Tensor, factors: Tensor | float = 1.0) -> None:
    """out ← x times the factor of each row.

    x: (rows, columns) bf16; out as `shape_of` says; factors: (rows, 1) float32.
    """
    rows, columns = x.shape
    codes, scales = quantise(x, out.dtype, columns)
    of_codes, of_sums = _parts(out)
    groups = columns // GROUP_COLUMNS
    grouped = codes.view(rows, groups, GROUP_COLUMNS)
    # row, group, run, t, word, column → group, row, run, word, half, t, byte
    bytes_of = grouped.view(torch.uint8).view(rows, groups, 2, 4, 2, 8)[..., _COLUMNS]
    places = bytes_of.view(rows, groups, 2, 4, 2, 2, 4).permute(1, 0, 2, 4, 5, 3, 6)
    of_codes[:, :rows] = places.reshape(groups, rows, GROUP_COLUMNS)
    sums = (grouped.float().sum(2) * -_CODE_UNIT).T.unsqueeze(2)
    most = sums.bfloat16()
    both = torch.cat([most, (sums - most.float()).bfloat16()], dim=2)  # group, row, part
    padded = torch.nn.functional.pad(both, (0, 0, 0, 0, 0, len(of_sums) * _SUM_GROUPS - len(both)))
    by_slab = padded.view(len(of_sums), _SUM_GROUPS, rows, 2).permute(0, 2, 3, 1)
    of_sums[:, :rows] = by_slab.reshape(len(of_sums), rows, 2 * _SUM_GROUPS)
    scales_of(out)[:rows] = (scales * factors)[:, 0]


def decode(coded: Tensor, rows: int) -> Tensor:
    """The (rows, columns) float32 that the codes stand for."""
    codes, _ = _parts(coded)
    words = codes[:, :rows].reshape(len(codes), rows, 2, 2, 2, 4, 4).permute(1, 0, 2, 5, 3, 4, 6)
    places = torch.empty(rows, len(codes), 2, 4, 2, 8, dtype=torch.uint8, device=coded.device)
    places[..., _COLUMNS] = words.reshape(places.shape)
    return places.view(coded.dtype).float().flatten(1) * scales_of(coded)[:rows, None]


def _parts(coded: Tensor) -> tuple[Tensor, Tensor]:
    """Views: codes (groups, padded rows, 128) uint8; sums (slabs, padded rows, 64) bf16."""
    slabs = coded.view(torch.uint8)
    groups = len(coded) - 1 - -(-(len(coded) - 1) // (_SUM_GROUPS + 1))
    return slabs[:groups], slabs[groups:-1].view(torch.bfloat16)


def _sum_slabs(groups: int) -> int:
    return -(-groups // _SUM_GROUPS)
