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
from openinference_engine.weights.coded_checkpoint import SCALE_TYPES, CodedCheckpoint
from openinference_engine.weights.stored_codes import Layout, StoredCodes

PACKED, SCALE, ZERO, SHAPE, ORDER = "_packed", "_scale", "_zero_point", "_shape", "_g_idx"
_PARTS = tuple(f".weight{part}" for part in (PACKED, SCALE, ZERO, SHAPE, ORDER))
_CODE_TYPES = ("I8", "F8_E4M3")
_WORD_BITS = 32


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

    def stored_codes(self, name: str) -> StoredCodes:
        return self._packed_codes(name) if name in self._packed else self._bytes(name)

    def _packed_codes(self, name: str) -> StoredCodes:
        words, scales = self._words(self._named(name, PACKED)), self._scales(name)
        outputs, inputs = self._shape(name)
        bits = words.shape[1] * _WORD_BITS // inputs
        if bits not in (4, 8) or len(words) != outputs or len(scales) != outputs:
            raise StartError(
                f"{name}: words {words.shape} and scales {scales.shape} do not hold ({outputs}, "
                f"{inputs}) codes of 4 or 8 bits; quantise or fetch it again"
            )
        zeros = self._words(name + ZERO) if self._has(name, ZERO) else None
        wanted = -(-outputs * bits // _WORD_BITS), scales.shape[1]
        if zeros is not None and zeros.shape != wanted:
            raise StartError(
                f"{name}: zeros {zeros.shape} do not fit scales {scales.shape}; fetch it again"
            )
        groups = self._order(name, inputs, scales.shape[1])
        return StoredCodes("rows", bits, (outputs, inputs), words, scales, zeros, groups)

    def _bytes(self, name: str) -> StoredCodes:
        """A matrix whose codes are one byte each: int8 or e4m3."""
        if self._has(name, ZERO):
            raise StartError(f"{name}: zero points of int8 codes are unknown; use symmetric ones")
        codes = self._matrix(name, "int8 or e4m3", (np.int8, np.uint8))
        scales = self._scales(name)
        layout: Layout = "int8" if codes.dtype == np.int8 else "e4m3"
        fits = len(scales) in (1, len(codes))
        if layout == "e4m3":  # also of blocks
            sizes = zip(codes.shape, scales.shape, strict=True)
            fits = all(size % count == 0 for size, count in sizes)
        if not fits:
            raise StartError(
                f"{name}: scales {scales.shape} do not fit {codes.shape}; fetch it again"
            )
        groups = self._order(name, codes.shape[1], scales.shape[1])
        return StoredCodes(layout, 8, codes.shape, codes, scales, None, groups)

    def _order(self, name: str, inputs: int, count: int) -> npt.NDArray[Any]:
        return self._groups(name, name + ORDER, inputs, count, -(-inputs // count))

    def _shape(self, name: str) -> tuple[int, int]:
        """Of a matrix whose codes are in words."""
        sizes = self._checkpoint.array(self._named(name, SHAPE))
        if sizes.shape != (2,) or sizes.dtype.kind != "i" or sizes.min() < 1:
            raise StartError(
                f"the tensor {name}{SHAPE} is {sizes.tolist()}, where two numbers of outputs and "
                "inputs belong; fetch it again"
            )
        return int(sizes[0]), int(sizes[1])

    def _scales(self, name: str) -> npt.NDArray[Any]:
        """(outputs, groups) in their own type: they are a part of the file worth not reading."""
        scales = self._checkpoint.array(self._named(name, SCALE))
        if scales.ndim > 2 or scales.dtype not in SCALE_TYPES:
            raise StartError(
                f"the tensor {name}{SCALE} is {scales.dtype} of shape {scales.shape}, where scales "
                "belong; fetch it again"
            )
        return scales.reshape(len(scales) if scales.ndim else 1, -1)

    def _has(self, name: str, part: str) -> bool:
        return name + part in self._checkpoint.names()

    def _named(self, name: str, part: str) -> str:
        """The name of a part that has to be there."""
        if not self._has(name, part):
            raise StartError(f"the checkpoint lacks the tensor {name}{part}; fetch it again")
        return name + part
