"""The packed formats of weights on a GPU, by the names that users give them.

Each is a module of its own: numbers and their order in memory. Kernels tell them by the element
type and size of a unit of 16 rows and 128 columns; `packing_of` does the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from openinference_engine import fp8, int4, int4_zero, int8
from openinference_engine.config import WeightFormat
from openinference_engine.tiles import GROUP_COLUMNS, TILE_ROWS

UNIT_ELEMENTS = TILE_ROWS * GROUP_COLUMNS


class Packing(Protocol):
    """codes: (rows, columns); scales, and zeros where there are any: (rows, columns / 128)."""

    @property
    def UNIT_BYTES(self) -> int: ...

    @property
    def quantise(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """A matrix → codes, scales and maybe zeros."""

    @property
    def dequantise(self) -> Callable[..., Tensor]:
        """Codes, scales and maybe zeros → float32."""

    @property
    def pack(self) -> Callable[..., Tensor]:
        """Codes, scales, maybe zeros and an order of rows (tiles.py) → units."""

    @property
    def unpack(self) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
        """Units and their order of rows → codes, scales and maybe zeros."""


PACKINGS: dict[WeightFormat, Packing] = {
    "fp8": fp8, "int8": int8, "int4": int4, "int4-zero": int4_zero
}  # fmt: skip


def pack_matrix(packing: Packing, matrix: Tensor, row_order: Tensor) -> Tensor:
    """The matrix rounded to the format, as kernels read it."""
    return packing.pack(*packing.quantise(matrix), row_order.to(matrix.device))


def packing_of(units: Tensor) -> Packing:
    """The format of packed weights."""
    if units.dtype.is_signed:
        return int8
    return next(p for p in (fp8, int4, int4_zero) if units.shape[2] == p.UNIT_BYTES)
