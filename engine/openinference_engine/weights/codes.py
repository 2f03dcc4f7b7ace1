"""A quantised matrix as its file says it: codes, and a scale and a zero for each group of inputs.

What the containers of GPTQ, AWQ and compressed-tensors are read into, and how it is handed on
without being widened: blocks of 32 inputs that the kernels know (`quantisation`). Four-bit codes
become Q4_0 where every zero is 8, which loses nothing of scales from 2⁻¹⁷ on, else Q4_1, whose
minimum −scale · zero is rounded to half precision; eight-bit codes become Q8_0 where every zero is
128. Other eight-bit codes, and groups that do not follow the order of inputs, are expanded to F16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from openinference_engine.weights.checkpoint import StoredMatrix
from openinference_engine.weights.quantisation import FORMATS_BY_NAME
from openinference_engine.weights.stored_codes import StoredCodes

_BLOCK = 32  # inputs behind one scale of Q4_0, Q4_1 and Q8_0
_WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class Codes:
    """weight[o, i] = scales[g, o] · (codes[o, i] − zeros[g, o]), g = groups[i]."""

    bits: int
    codes: npt.NDArray[np.uint8]  # (outputs, inputs)
    scales: npt.NDArray[Any]  # (groups, outputs) float16
    zeros: npt.NDArray[np.int32]  # (groups, outputs)
    groups: npt.NDArray[Any]  # (inputs,)
    is_symmetric: bool  # every zero of the whole matrix is the middle of the codes

    @staticmethod
    def of(stored: StoredCodes) -> Codes:
        """Unpacked. No zeros are there if those of the whole matrix are all the middle."""
        codes, zeros, middle = stored.codes(), stored.zeros_by_output(), 1 << stored.bits - 1
        if codes.dtype == np.int8:
            codes = codes.view(np.uint8) ^ np.uint8(middle)
        scales = stored.scales_by_output()
        scales = np.broadcast_to(scales, (stored.shape[0], scales.shape[1]))
        if zeros is None:
            zeros = np.full(scales.shape, middle, np.int32)
        return Codes(
            stored.bits,
            np.ascontiguousarray(codes).astype(np.uint8),
            scales.T.astype(np.float16),
            zeros.T.astype(np.int32),
            stored.groups,
            stored.zeros is None,
        )

    def expand(self) -> npt.NDArray[np.float32]:
        """(outputs, inputs) float32."""
        centred = self.codes.astype(np.float32) - self.zeros.astype(np.float32)[self.groups].T
        weights: npt.NDArray[np.float32] = self.scales.astype(np.float32)[self.groups].T * centred
        return weights

    def stored(self) -> StoredMatrix:
        """The narrowest format that holds these codes."""
        if self._follows_order():
            if self.bits == 4:
                return self._as_nibbles()
            if self.is_symmetric:
                return self._as_bytes()
        return as_half_precision(self.expand())

    def _follows_order(self) -> bool:
        """Whether each block of inputs lies in one group."""
        if len(self.groups) % _BLOCK:
            return False
        blocks = self.groups.reshape(-1, _BLOCK)
        return bool((blocks == blocks[:, :1]).all())

    def _as_nibbles(self) -> StoredMatrix:
        groups = self.groups[::_BLOCK]
        name = "Q4_0" if self.is_symmetric else "Q4_1"
        blocks = self._blocks(name)
        halves = self.codes.reshape(*blocks.shape, 2, _BLOCK // 2)
        blocks["values"] = halves[:, :, 0] | halves[:, :, 1] << 4
        if name == "Q4_1":
            blocks["minimum"] = -(blocks["scale"].astype(np.float32) * self.zeros[groups].T)
        return self._matrix(name, blocks)

    def _as_bytes(self) -> StoredMatrix:
        blocks = self._blocks("Q8_0")
        blocks["values"] = (self.codes ^ 0x80).view(np.int8).reshape(*blocks.shape, _BLOCK)
        return self._matrix("Q8_0", blocks)

    def _blocks(self, name: str) -> npt.NDArray[Any]:
        """(outputs, blocks) with their scales."""
        outputs, inputs = self.codes.shape
        blocks = np.zeros((outputs, inputs // _BLOCK), FORMATS_BY_NAME[name].block)
        blocks["scale"] = self.scales[self.groups[::_BLOCK]].T
        return blocks

    def _matrix(self, name: str, blocks: npt.NDArray[Any]) -> StoredMatrix:
        rows = blocks.view(np.uint8).reshape(len(blocks), -1)
        return StoredMatrix(name, self.codes.shape, rows)


def expand_e4m3(stored: StoredCodes) -> npt.NDArray[np.float32]:
    """What codes of e4m3 stand for; their scales are of tensors, rows, groups or blocks."""
    scales = stored.scales_by_output().astype(np.float32)
    rows, columns = (size // count for size, count in zip(stored.shape, scales.shape, strict=True))
    scales = scales.repeat(rows, axis=0).repeat(columns, axis=1)
    values: npt.NDArray[np.float32] = scales * _E4M3[stored.words]
    return values


def _e4m3_values() -> npt.NDArray[np.float32]:
    """What each of the 256 codes stands for (arXiv:2209.05433); 127 and 255 are no numbers."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8
    magnitude = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)


_E4M3 = _e4m3_values()


def as_half_precision(weights: npt.NDArray[np.float32]) -> StoredMatrix:
    rows = np.ascontiguousarray(weights.astype(np.float16)).view(np.uint8)
    return StoredMatrix("F16", weights.shape, rows)


def pack_words(parts: npt.NDArray[Any], bits: int) -> npt.NDArray[np.int32]:
    """(rows, n) whole numbers of so many bits → (rows, ⌈n · bits / 32⌉) int32."""
    per_word = _WORD_BITS // bits
    padded = np.pad(parts.astype(np.uint32), ((0, 0), (0, -parts.shape[1] % per_word)))
    shifts = np.arange(0, _WORD_BITS, bits, dtype=np.uint32)
    words = (padded.reshape(len(parts), -1, per_word) << shifts).sum(axis=2, dtype=np.uint32)
    return np.ascontiguousarray(words).view(np.int32)
