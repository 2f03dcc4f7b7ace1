"""Checkpoints of GPTQ and AWQ tools: four- or eight-bit codes in int32 words, beside their scales.

A matrix `x.weight` is stored as x.qweight, x.qzeros, x.scales and maybe x.g_idx, inputs first;
weight = scale · (code − zero), with a scale and a zero for each output and group of inputs.
Layouts: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ (GEMM).

Four-bit matrices are handed on as Q4_0 where every zero is 8, which loses nothing, else as Q4_1,
whose minimum −scale · zero is rounded to half precision. Groups that do not follow the order of
inputs (GPTQ's `desc_act`), and eight bits, are expanded to F16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import ALL, Checkpoint, StoredMatrix, StoredTensor
from openinference_engine.weights.config_file import decode_config
from openinference_engine.weights.quantisation import FORMATS

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_WORD_BITS = 32
_BLOCK = 32  # inputs behind one scale of Q4_0 and Q4_1
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # which of a word's eight outputs its nibbles hold

_FORMATS = {known.name: known for known in FORMATS.values()}


class _Method(msgspec.Struct, frozen=True):
    """What is read of `quantization_config`, by its own names."""

    quant_method: str
    bits: int = 4
    group_size: int = 128  # −1: one group
    checkpoint_format: str = "gptq"  # gptq_v2 stores zeros as they are, gptq one less
    version: str = "gemm"


class _ConfigFile(msgspec.Struct, frozen=True):
    quantization_config: _Method | None = None


@dataclass(frozen=True, slots=True)
class _Codes:
    """weight[o, i] = scales[g, o] · (codes[o, i] − zeros[g, o]), g = groups[i]."""

    codes: npt.NDArray[np.uint8]  # (outputs, inputs)
    scales: npt.NDArray[Any]  # (groups, outputs) float16
    zeros: npt.NDArray[np.int32]  # (groups, outputs)
    groups: npt.NDArray[Any]  # (inputs,)


def open_quantised(checkpoint: Checkpoint, config_file: Path) -> Checkpoint:
    """The checkpoint, with its matrices' usual names if they are quantised.

    Raises StartError for a damaged file, and for a method, width or layout that is not known.
    """
    method = decode_config(config_file, _ConfigFile).quantization_config
    if method is None:
        return checkpoint
    match method:
        case _Method(quant_method="gptq", bits=4 | 8, checkpoint_format="gptq" | "gptq_v2"):
            return QuantisedCheckpoint(checkpoint, method, "gptq")
        case _Method(quant_method="awq", bits=4, version="gemm" | "GEMM"):
            return QuantisedCheckpoint(checkpoint, method, "awq")
    raise StartError(
        f"{config_file}: quantization_config names {method.quant_method!r} of {method.bits} bits, "
        f"format {method.checkpoint_format!r}, version {method.version!r}; known are gptq of 4 or "
        "8 bits (gptq, gptq_v2) and awq of 4 bits (gemm)"
    )


class QuantisedCheckpoint:
    def __init__(
        self, checkpoint: Checkpoint, method: _Method, layout: Literal["gptq", "awq"]
    ) -> None:
        self._checkpoint, self._method, self._layout = checkpoint, method, layout
        names = checkpoint.names()
        self._matrices = {
            name.removesuffix(".qweight") for name in names if name.endswith(".qweight")
        }
        plain = {name for name in names if not name.endswith(_PARTS)}
        self._names = frozenset(plain | {f"{matrix}.weight" for matrix in self._matrices})

    @property
    def config(self) -> ModelConfig:
        return self._checkpoint.config

    @property
    def fingerprint(self) -> str:
        return self._checkpoint.fingerprint

    def names(self) -> frozenset[str]:
        return self._names

    def tensors(self) -> Iterable[StoredTensor]:
        return self._checkpoint.tensors()

    def array(self, name: str, rows: slice = ALL) -> npt.NDArray[Any]:
        if not self._has(name):
            return self._checkpoint.array(name, rows)
        return _expand(self._read(name.removesuffix(".weight")))[rows]

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        """A quantised matrix is read and repacked whole: its codes run across the outputs."""
        if not self._has(name):
            return self._checkpoint.stored(name, rows)
        matrix = self._repack(self._read(name.removesuffix(".weight")))
        return replace(matrix, rows=matrix.rows[rows])

    def _repack(self, read: _Codes) -> StoredMatrix:
        if self._method.bits == 4 and _follows_order(read.groups):
            return _as_blocks(read)
        rows = np.ascontiguousarray(_expand(read).astype(np.float16)).view(np.uint8)
        return StoredMatrix("F16", read.codes.shape, rows)

    def _has(self, name: str) -> bool:
        return name.endswith(".weight") and name.removesuffix(".weight") in self._matrices

    def _read(self, matrix: str) -> _Codes:
        words, zeros, scales = (
            self._checkpoint.array(matrix + part) for part in (".qweight", ".qzeros", ".scales")
        )
        if self._layout == "awq":
            codes, zeros = (_unpack_nibbles_of_awq(packed) for packed in (words, zeros))
        else:
            codes = _unpack(words.T, self._method.bits).T
            zeros = _unpack(zeros, self._method.bits)
            zeros = zeros + (self._method.checkpoint_format == "gptq")
        inputs, outputs = codes.shape
        if zeros.shape != scales.shape or scales.shape[1] != outputs:
            raise StartError(
                f"{matrix}: scales {scales.shape} and zeros {zeros.shape} do not fit the "
                f"{outputs} outputs of its codes; fetch it again"
            )
        return _Codes(
            np.ascontiguousarray(codes.T).astype(np.uint8),
            scales.astype(np.float16),
            zeros.astype(np.int32),
            self._groups(matrix, inputs, len(scales)),
        )

    def _groups(self, matrix: str, inputs: int, count: int) -> npt.NDArray[Any]:
        name = f"{matrix}.g_idx"
        size = self._method.group_size if self._method.group_size > 0 else inputs
        stored = name in self._checkpoint.names()
        groups = self._checkpoint.array(name) if stored else np.arange(inputs) // size
        if len(groups) != inputs or groups.min() < 0 or groups.max() >= count:
            raise StartError(
                f"{matrix}: its {inputs} inputs do not fit {count} groups of {size}; fetch it again"
            )
        return groups


def _unpack(words: npt.NDArray[Any], bits: int) -> npt.NDArray[Any]:
    """(rows, words) int32 → (rows, words · 32 / bits): the lowest bits of a word come first."""
    shifts = np.arange(0, _WORD_BITS, bits, dtype=np.uint32)
    parts = (words.astype(np.int32).view(np.uint32)[..., None] >> shifts) & ((1 << bits) - 1)
    return parts.reshape(len(words), -1).astype(np.int32)


def _unpack_nibbles_of_awq(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
    nibbles = _unpack(words, 4).reshape(len(words), -1, 8)
    outputs = np.empty_like(nibbles)
    outputs[..., _AWQ_ORDER] = nibbles
    return outputs.reshape(len(words), -1)


def _expand(read: _Codes) -> npt.NDArray[np.float32]:
    """(outputs, inputs) float32."""
    centred = read.codes.astype(np.float32) - read.zeros[read.groups].T
    weights: npt.NDArray[np.float32] = read.scales.astype(np.float32)[read.groups].T * centred
    return weights


def _follows_order(groups: npt.NDArray[Any]) -> bool:
    """Whether each block of inputs lies in one group."""
    if len(groups) % _BLOCK:
        return False
    blocks = groups.reshape(-1, _BLOCK)
    return bool((blocks == blocks[:, :1]).all())


def _as_blocks(read: _Codes) -> StoredMatrix:
    outputs, inputs = read.codes.shape
    groups = read.groups[::_BLOCK]
    scales, zeros = read.scales[groups].T, read.zeros[groups].T  # (outputs, blocks)
    kind = _FORMATS["Q4_0" if (zeros == 8).all() else "Q4_1"]
    blocks = np.zeros((outputs, inputs // _BLOCK), kind.block)
    codes = read.codes.reshape(outputs, -1, 2, _BLOCK // 2)
    blocks["scale"] = scales
    blocks["values"] = codes[:, :, 0] | codes[:, :, 1] << 4
    if kind.name == "Q4_1":
        blocks["minimum"] = -(scales.astype(np.float32) * zeros)
    return StoredMatrix(kind.name, (outputs, inputs), blocks.view(np.uint8).reshape(outputs, -1))
