"""Checkpoints in the layout of compressed-tensors, the one that `openinference quantize` writes.

A matrix `x.weight` of four- or eight-bit codes is stored as x.weight_packed, x.weight_scale,
x.weight_shape and maybe x.weight_zero_point and x.weight_g_idx; one of int8 or e4m3 codes as
x.weight and x.weight_scale. What a matrix is follows from its tensors, so that layers of several
kinds may stand side by side. Scales of activations belong to other engines and are not read.
Layout: https://github.com/vllm-project/compressed-tensors
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.coded_checkpoint import CodedCheckpoint
from openinference_engine.weights.codes import Codes, unpack_words

PACKED, SCALE, ZERO, SHAPE, ORDER = "_packed", "_scale", "_zero_point", "_shape", "_g_idx"
_PARTS = tuple(f".weight{part}" for part in (PACKED, SCALE, ZERO, SHAPE, ORDER))
_CODE_TYPES = ("I8", "F8_E4M3")
_WORD_BITS = 32


def _e4m3_values() -> npt.NDArray[np.float32]:
    """What each of the 256 codes stands for (arXiv:2209.05433); 127 and 255 are no numbers."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7) / 8
    magnitude = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code & 128, -magnitude, magnitude).astype(np.float32)


_E4M3 = _e4m3_values()


def refuse_codes_without_scales(checkpoint: Checkpoint, config_file: Path) -> Checkpoint:
    """The checkpoint. Raises StartError if it holds codes, which mean nothing by themselves."""
    for tensor in checkpoint.tensors():
        if tensor.format in _CODE_TYPES:
            raise StartError(
                f"{config_file} lacks quantization_config, and there are tensors of "
                f"{tensor.format}; fetch the file that belongs to these weights"
            )
    return checkpoint


class CompressedCheckpoint(CodedCheckpoint):
    def __init__(self, checkpoint: Checkpoint) -> None:
        names = checkpoint.names()
        self._packed = {
            name.removesuffix(PACKED) for name in names if name.endswith(f".weight{PACKED}")
        }
        scaled = {name.removesuffix(SCALE) for name in names if name.endswith(f".weight{SCALE}")}
        plain = {name for name in names if not name.endswith(_PARTS)}
        super().__init__(checkpoint, plain, self._packed | (scaled & plain))

    def _read(self, name: str) -> Codes | npt.NDArray[np.float32]:
        return self._read_packed(name) if name in self._packed else self._read_scaled(name)

    def _read_packed(self, name: str) -> Codes:
        words, scales = self._part(name, PACKED), self._scales(name)
        outputs, inputs = (int(size) for size in self._part(name, SHAPE))
        bits = words.shape[1] * _WORD_BITS // inputs
        if bits not in (4, 8) or len(words) != outputs or len(scales) != outputs:
            raise StartError(
                f"{name}: words {words.shape} and scales {scales.shape} do not hold ({outputs}, "
                f"{inputs}) codes of 4 or 8 bits; quantise or fetch it again"
            )
        zeros = np.full(scales.shape, 1 << bits - 1, np.int32)
        if self._has(name, ZERO):
            zeros = unpack_words(self._part(name, ZERO).T, bits).T[:outputs]
        codes = unpack_words(words, bits)[:, :inputs].astype(np.uint8)
        return self._codes(name, bits, codes, scales, zeros)

    def _read_scaled(self, name: str) -> Codes | npt.NDArray[np.float32]:
        """A matrix whose codes are one byte each: int8, or e4m3 already expanded."""
        codes, scales = self._checkpoint.array(name), self._scales(name)
        if self._has(name, ZERO):
            raise StartError(f"{name}: zero points of int8 codes are unknown; use symmetric ones")
        if codes.dtype == np.int8 and len(scales) in (1, len(codes)):
            scales = np.broadcast_to(scales, (len(codes), scales.shape[1]))
            zeros = np.full(scales.shape, 128, np.int32)
            shifted = codes.view(np.uint8) ^ np.uint8(0x80)
            return self._codes(name, 8, shifted, scales, zeros)
        if codes.dtype != np.uint8:
            raise StartError(f"{name}: has scales and is no int8 or e4m3; fetch it again")
        values: npt.NDArray[np.float32] = _spread(name, scales, codes.shape) * _E4M3[codes]
        return values

    def _codes(
        self,
        name: str,
        bits: int,
        codes: npt.NDArray[np.uint8],
        scales: npt.NDArray[np.float32],
        zeros: npt.NDArray[np.int32],
    ) -> Codes:
        inputs, count = codes.shape[1], scales.shape[1]
        groups = self._groups(name, name + ORDER, inputs, count, -(-inputs // count))
        return Codes(bits, codes, scales.T.astype(np.float16), zeros.T, groups)

    def _scales(self, name: str) -> npt.NDArray[np.float32]:
        """(outputs, groups) float32, whatever they are stored in."""
        scales = self._part(name, SCALE)
        if scales.dtype == np.uint16:  # the bits of bfloat16
            scales = (scales.astype(np.uint32) << 16).view(np.float32)
        return scales.astype(np.float32).reshape(len(scales) if scales.ndim else 1, -1)

    def _has(self, name: str, part: str) -> bool:
        return name + part in self._checkpoint.names()

    def _part(self, name: str, part: str) -> npt.NDArray[Any]:
        if not self._has(name, part):
            raise StartError(f"the checkpoint lacks the tensor {name}{part}; fetch it again")
        return self._checkpoint.array(name + part)


def _spread(
    name: str, scales: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """One scale per element, from one per tensor, row, group or block."""
    if any(size % count for size, count in zip(shape, scales.shape, strict=True)):
        raise StartError(f"{name}: scales {scales.shape} do not fit {shape}; fetch it again")
    rows, columns = (size // count for size, count in zip(shape, scales.shape, strict=True))
    return scales.repeat(rows, axis=0).repeat(columns, axis=1)
