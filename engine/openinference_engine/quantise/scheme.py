"""How weights become codes: the grid of a group of inputs, and rounding to it.

A scale is bfloat16, as in the GPU's formats (int4.py, fp8.py). The half-precision scales of the
CPU's blocks hold it exactly from 2⁻¹⁷ on and round a smaller one to a multiple of 2⁻²⁴. Pure
arithmetic on tensors; knows nothing of files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError

_LARGEST_E4M3 = 448.0


@dataclass(frozen=True, slots=True)
class Scheme:
    """`group_size`: inputs behind one scale; None: all of a row."""

    kind: Literal["int", "float"]
    bits: int
    is_symmetric: bool = True
    group_size: int | None = 128

    def with_groups_of(self, inputs: int) -> Scheme:
        """The same with so many inputs behind one scale, unless that is all of a row."""
        return self if self.group_size is None else replace(self, group_size=inputs)

    @property
    def middle(self) -> int:
        """The zero of a symmetric scheme."""
        return 1 << self.bits - 1


SCHEMES = {
    "int4": Scheme("int", 4),
    "int4-zero": Scheme("int", 4, is_symmetric=False),
    "int8": Scheme("int", 8),
    "fp8": Scheme("float", 8, group_size=None),
}


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that one group of inputs may have in each row.

    scales: (rows, 1) float32; zeros: (rows, 1) float32, of integers.
    """

    scheme: Scheme
    scales: Tensor
    zeros: Tensor

    @staticmethod
    def fit(scheme: Scheme, values: Tensor) -> Grid:
        """The grid that spans each row of values: (rows, columns)."""
        zeros = torch.full((len(values), 1), float(scheme.middle))
        if scheme.kind == "float":
            scales = values.abs().amax(1, keepdim=True) / _LARGEST_E4M3
        elif scheme.is_symmetric:  # the value of largest magnitude lies at the grid's longer end
            largest = values.gather(1, values.abs().argmax(1, keepdim=True))
            scales = largest / -scheme.middle
        else:
            low = values.amin(1, keepdim=True).clamp(max=0)
            scales = (values.amax(1, keepdim=True).clamp(min=0) - low) / (2 * scheme.middle - 1)
            zeros = (-low / _divisors(_as_bfloat(scales))).round().clamp(0, 2 * scheme.middle - 1)
        return Grid(scheme, _as_bfloat(scales), zeros)

    def encode(self, values: Tensor) -> Tensor:
        """values: (rows, columns) → codes, uint8: the nearest, or the bits of e4m3."""
        steps = values / _divisors(self.scales)
        if self.scheme.kind == "float":
            codes = steps.clamp(-_LARGEST_E4M3, _LARGEST_E4M3).to(torch.float8_e4m3fn)
            return codes.view(torch.uint8)
        last = 2 * self.scheme.middle - 1
        return (steps.round() + self.zeros).clamp(0, last).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        """The float32 values that codes stand for."""
        if self.scheme.kind == "float":
            return codes.view(torch.float8_e4m3fn).float() * self.scales
        return (codes.float() - self.zeros) * self.scales


@dataclass(frozen=True, slots=True)
class Quantised:
    """A matrix (outputs, inputs) as codes: uint8, and one grid per group of its inputs."""

    scheme: Scheme
    codes: Tensor
    grids: list[Grid]

    @property
    def scales(self) -> Tensor:
        """(outputs, groups) bfloat16."""
        return torch.cat([grid.scales for grid in self.grids], dim=1).bfloat16()

    @property
    def zeros(self) -> Tensor:
        """(outputs, groups) uint8."""
        return torch.cat([grid.zeros for grid in self.grids], dim=1).to(torch.uint8)

    def expand(self) -> Tensor:
        """The float32 matrix that the codes stand for."""
        parts = self.codes.chunk(len(self.grids), dim=1)
        pairs = zip(self.grids, parts, strict=True)
        return torch.cat([grid.decode(part) for grid, part in pairs], dim=1)


def round_to_nearest(scheme: Scheme, matrix: Tensor) -> Quantised:
    """matrix: (outputs, inputs) float32; its inputs divide into groups (`check_groups`)."""
    parts = split_groups(scheme, matrix)
    grids = [Grid.fit(scheme, part) for part in parts]
    codes = [grid.encode(part) for grid, part in zip(grids, parts, strict=True)]
    return Quantised(scheme, torch.cat(codes, dim=1), grids)


def split_groups(scheme: Scheme, matrix: Tensor) -> Sequence[Tensor]:
    """The columns of each group."""
    return torch.split(matrix, scheme.group_size or matrix.shape[1], dim=1)


def check_groups(scheme: Scheme, config: ModelConfig) -> None:
    """Raises StartError if the inputs of some projection do not divide into groups."""
    if scheme.group_size is None:
        return
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_heads · head_dim": config.num_heads * config.head_dim,
    }
    if config.experts is not None:
        widths["moe_intermediate_size"] = config.experts.intermediate_size
    divisor = math.gcd(*widths.values())
    for name, width in widths.items():
        if width % scheme.group_size:
            fitting = next((size for size in (128, 64, 32) if divisor % size == 0), None)
            remedy = f"use --group-size {fitting}" if fitting else "use --weights fp8"
            raise StartError(
                f"{name} {width} is no multiple of groups of {scheme.group_size}; {remedy}"
            )


def _divisors(scales: Tensor) -> Tensor:
    return torch.where(scales == 0, 1.0, scales)


def _as_bfloat(scales: Tensor) -> Tensor:
    return scales.bfloat16().float()
