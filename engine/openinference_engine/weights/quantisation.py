"""The block formats of GGUF tensors and their exact expansion to float32.

Each format is a numpy record of one block and a function that expands many blocks at once; the
arithmetic and its order are those of the format's definition, so results are bit-exact.
Layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Blocks = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Format:
    """One storage type: `weights_per_block` values lie in one record of type `block`."""

    name: str
    weights_per_block: int
    block: np.dtype[Any]
    expand: Callable[[Blocks], npt.NDArray[Any]]

    def num_bytes(self, num_weights: int) -> int:
        return num_weights // self.weights_per_block * self.block.itemsize

    def unpack(self, stored: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """The stored bytes of whole blocks → a flat array of their values."""
        return self.expand(stored.view(self.block)).reshape(-1)

    def unpack_rows(self, stored: npt.NDArray[np.uint8], columns: slice) -> npt.NDArray[Any]:
        """(rows, bytes) of whole blocks → (rows, columns). Blocks without such a column are not
        read."""
        per_block, num_bytes = self.weights_per_block, self.block.itemsize
        first, last, _ = columns.indices(stored.shape[1] // num_bytes * per_block)
        begun, ended = first // per_block, -(-last // per_block)
        blocks = np.ascontiguousarray(stored[:, begun * num_bytes : ended * num_bytes])
        values = self.unpack(blocks.reshape(-1)).reshape(len(stored), -1)
        return values[:, first - begun * per_block : last - begun * per_block]


def _same(blocks: Blocks) -> npt.NDArray[Any]:
    return blocks


def _scale(blocks: Blocks, name: str = "scale") -> Floats:
    """A half-precision field of each block as (blocks, 1) float32."""
    return blocks[name].astype(np.float32)[:, None]


def _nibbles(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Low halves of all bytes of the last axis, then their high halves."""
    return np.concatenate([packed & 0x0F, packed >> 4], axis=-1)


def _fifth_bits(blocks: Blocks) -> npt.NDArray[np.uint8]:
    return np.unpackbits(blocks["high"], axis=-1, bitorder="little") * np.uint8(16)


def _q8_0(blocks: Blocks) -> Floats:
    return blocks["values"].astype(np.float32) * _scale(blocks)


def _q4_0(blocks: Blocks) -> Floats:
    centred = _nibbles(blocks["values"]).astype(np.int8) - np.int8(8)
    return _scale(blocks) * centred.astype(np.float32)


def _q4_1(blocks: Blocks) -> Floats:
    weights = _nibbles(blocks["values"]).astype(np.float32)
    weights *= _scale(blocks)
    weights += _scale(blocks, "minimum")
    return weights


def _q5_0(blocks: Blocks) -> Floats:
    centred = (_nibbles(blocks["values"]) | _fifth_bits(blocks)).astype(np.int8) - np.int8(16)
    return _scale(blocks) * centred.astype(np.float32)


def _q5_1(blocks: Blocks) -> Floats:
    weights = (_nibbles(blocks["values"]) | _fifth_bits(blocks)).astype(np.float32)
    return _scale(blocks) * weights + _scale(blocks, "minimum")


def _k_scales(blocks: Blocks) -> tuple[Floats, Floats]:
    """Scales and minima of the 8 groups of a K block, each (blocks, 8, 1).

    Twelve bytes hold 8 + 8 six-bit numbers: the first four of each in the low bits of bytes 0–7,
    the others as nibbles of bytes 8–11 with their top bits in the high bits of bytes 0–7.
    """
    first, second, last = np.split(blocks["scales"], 3, axis=-1)  # (blocks, 4) each
    scales = np.concatenate([first & 0x3F, (last & 0x0F) | ((first >> 2) & 0x30)], axis=-1)
    minima = np.concatenate([second & 0x3F, (last >> 4) | ((second >> 2) & 0x30)], axis=-1)
    return (
        (_scale(blocks) * scales.astype(np.float32))[..., None],
        (_scale(blocks, "minimum") * minima.astype(np.float32))[..., None],
    )


def _q4_k(blocks: Blocks) -> Floats:
    scales, minima = _k_scales(blocks)
    weights = _nibbles(blocks["values"]).reshape(-1, 8, 32).astype(np.float32)
    return scales * weights - minima


def _q5_k(blocks: Blocks) -> Floats:
    scales, minima = _k_scales(blocks)
    high = (blocks["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    weights = _nibbles(blocks["values"]).reshape(-1, 8, 32) | (high << 4)
    return scales * weights.astype(np.float32) - minima


def _q6_k(blocks: Blocks) -> Floats:
    scales = (_scale(blocks) * blocks["scales"].astype(np.float32))[..., None]  # (blocks, 16, 1)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = ((blocks["high"][:, :, None, :] >> shifts) & 3).reshape(-1, 8, 32)
    low = _nibbles(blocks["low"]).reshape(-1, 8, 32)
    weights = (low | (high << 4)).astype(np.int8) - np.int8(32)
    return scales * weights.reshape(-1, 16, 16).astype(np.float32)


_SCALE = ("scale", "<f2")
_MINIMUM = ("minimum", "<f2")
_K_SCALES = ("scales", "u1", 12)


def _format(name: str, size: int, fields: Any, expand: Callable[[Blocks], Any]) -> Format:
    return Format(name, size, np.dtype(fields), expand)


# By the type number in the file. BF16 comes back as its 16 bits, which numpy cannot name.
FORMATS = {
    0: _format("F32", 1, "<f4", _same),
    1: _format("F16", 1, "<f2", _same),
    2: _format("Q4_0", 32, [_SCALE, ("values", "u1", 16)], _q4_0),
    3: _format("Q4_1", 32, [_SCALE, _MINIMUM, ("values", "u1", 16)], _q4_1),
    6: _format("Q5_0", 32, [_SCALE, ("high", "u1", 4), ("values", "u1", 16)], _q5_0),
    7: _format("Q5_1", 32, [_SCALE, _MINIMUM, ("high", "u1", 4), ("values", "u1", 16)], _q5_1),
    8: _format("Q8_0", 32, [_SCALE, ("values", "i1", 32)], _q8_0),
    12: _format("Q4_K", 256, [_SCALE, _MINIMUM, _K_SCALES, ("values", "u1", (4, 32))], _q4_k),
    13: _format(
        "Q5_K",
        256,
        [_SCALE, _MINIMUM, _K_SCALES, ("high", "u1", 32), ("values", "u1", (4, 32))],
        _q5_k,
    ),
    14: _format(
        "Q6_K",
        256,
        [("low", "u1", (2, 64)), ("high", "u1", (2, 32)), ("scales", "i1", 16), _SCALE],
        _q6_k,
    ),
    30: _format("BF16", 1, "<u2", _same),
}

FORMATS_BY_NAME = {known.name: known for known in FORMATS.values()}
