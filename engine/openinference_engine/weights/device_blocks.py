"""Blocks of a GGUF file on a device: what `quantisation` does, in torch.

The arithmetic and its order are the same, so values are too, bit for bit. A file's bytes are a
quarter of float32 or less, and numpy would expand them in one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openinference_engine.weights.quantisation import FORMATS_BY_NAME

_TYPES = {"f2": torch.float16, "u1": torch.uint8, "i1": torch.int8}


class _Blocks:
    """(n, bytes) uint8, of which a field is (n, …) in its own type."""

    def __init__(self, stored: Tensor, block: np.dtype[Any]) -> None:
        self._bytes = stored.view(-1, block.itemsize)
        self._fields: Mapping[str, Any] = block.fields or {}

    def __getitem__(self, name: str) -> Tensor:
        field, first = self._fields[name][:2]
        values = self._bytes[:, first : first + field.itemsize].contiguous()
        return values.view(_TYPES[field.base.str[1:]]).view(len(values), *field.shape)

    def scale(self, name: str = "scale") -> Tensor:
        """A half-precision field as (n, 1) float32."""
        return self[name].float()[:, None]


def expand(format_name: str, stored: Tensor) -> Tensor:
    """stored: (rows, bytes of whole blocks) uint8 → (rows, columns) float32."""
    blocks = _Blocks(stored, FORMATS_BY_NAME[format_name].block)
    return EXPANSIONS[format_name](blocks).reshape(len(stored), -1)


def _nibbles(packed: Tensor) -> Tensor:
    """Low halves of all bytes of the last axis, then their high halves."""
    return torch.cat([packed & 0x0F, packed >> 4], dim=-1)


def _bits(packed: Tensor, count: int) -> Tensor:
    """(n, bytes) → (n, 8 / count, bytes): of each byte the lowest `count` bits, then the next."""
    shifts = torch.arange(0, 8, count, dtype=torch.uint8, device=packed.device)
    return packed[..., None, :] >> shifts[:, None] & (1 << count) - 1


def _five_bits(blocks: _Blocks) -> Tensor:
    high = _bits(blocks["high"], 1).transpose(1, 2).flatten(1)
    return _nibbles(blocks["values"]) | high << 4


def _q8_0(blocks: _Blocks) -> Tensor:
    return blocks["values"].float() * blocks.scale()


def _q4_0(blocks: _Blocks) -> Tensor:
    return blocks.scale() * (_nibbles(blocks["values"]).float() - 8)


def _q4_1(blocks: _Blocks) -> Tensor:
    return _nibbles(blocks["values"]).float() * blocks.scale() + blocks.scale("minimum")


def _q5_0(blocks: _Blocks) -> Tensor:
    return blocks.scale() * (_five_bits(blocks).float() - 16)


def _q5_1(blocks: _Blocks) -> Tensor:
    return blocks.scale() * _five_bits(blocks).float() + blocks.scale("minimum")


def _k_scales(blocks: _Blocks) -> tuple[Tensor, Tensor]:
    """Scales and minima of the 8 groups of a K block, each (n, 8, 1)."""
    first, second, last = torch.split(blocks["scales"], 4, dim=-1)
    scales = torch.cat([first & 0x3F, last & 0x0F | first >> 2 & 0x30], dim=-1)
    minima = torch.cat([second & 0x3F, last >> 4 | second >> 2 & 0x30], dim=-1)
    return (
        (blocks.scale() * scales.float())[..., None],
        (blocks.scale("minimum") * minima.float())[..., None],
    )


def _q4_k(blocks: _Blocks) -> Tensor:
    scales, minima = _k_scales(blocks)
    return scales * _nibbles(blocks["values"]).view(-1, 8, 32).float() - minima


def _q5_k(blocks: _Blocks) -> Tensor:
    scales, minima = _k_scales(blocks)
    codes = _nibbles(blocks["values"]).view(-1, 8, 32) | _bits(blocks["high"], 1) << 4
    return scales * codes.float() - minima


def _q6_k(blocks: _Blocks) -> Tensor:
    scales = (blocks.scale() * blocks["scales"].float())[..., None]  # (n, 16, 1)
    high = _bits(blocks["high"], 2).reshape(-1, 8, 32)
    codes = _nibbles(blocks["low"]).view(-1, 8, 32) | high << 4
    return scales * (codes.float() - 32).view(-1, 16, 16)


EXPANSIONS: dict[str, Callable[[_Blocks], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
