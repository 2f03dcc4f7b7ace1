"""Checkpoints of GPTQ and AWQ tools: four- or eight-bit codes in int32 words, beside their scales.

A matrix `x.weight` is stored as x.qweight, x.qzeros, x.scales and maybe x.g_idx, inputs first;
weight = scale · (code − zero), with a scale and a zero for each output and group of inputs.
Layouts: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ (GEMM).

`codes` says in which format a matrix is handed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.coded_checkpoint import CodedCheckpoint
from openinference_engine.weights.codes import Codes, unpack_words
from openinference_engine.weights.compressed_tensors import (
    CompressedCheckpoint,
    refuse_codes_without_scales,
)
from openinference_engine.weights.config_file import decode_config

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # which of a word's eight outputs its nibbles hold


class _Method(msgspec.Struct, frozen=True):
    """What is read of `quantization_config`, by its own names."""

    quant_method: str
    bits: int = 4
    group_size: int = 128  # −1: one group
    checkpoint_format: str = "gptq"  # gptq_v2 stores zeros as they are, gptq one less
    version: str = "gemm"


class _ConfigFile(msgspec.Struct, frozen=True):
    quantization_config: _Method | None = None


def open_quantised(checkpoint: Checkpoint, config_file: Path) -> Checkpoint:
    """The checkpoint, with its matrices' usual names if they are quantised.

    Raises StartError for a damaged file, and for a method, width or layout that is not known.
    """
    method = decode_config(config_file, _ConfigFile).quantization_config
    if method is None:
        return refuse_codes_without_scales(checkpoint, config_file)
    match method:
        case _Method(quant_method="compressed-tensors"):
            return CompressedCheckpoint(checkpoint)
        case _Method(quant_method="gptq", bits=4 | 8, checkpoint_format="gptq" | "gptq_v2"):
            return QuantisedCheckpoint(checkpoint, method, "gptq")
        case _Method(quant_method="awq", bits=4, version="gemm" | "GEMM"):
            return QuantisedCheckpoint(checkpoint, method, "awq")
    raise StartError(
        f"{config_file}: quantization_config names {method.quant_method!r} of {method.bits} bits, "
        f"format {method.checkpoint_format!r}, version {method.version!r}; known are gptq of 4 or "
        "8 bits (gptq, gptq_v2), awq of 4 bits (gemm) and compressed-tensors"
    )


class QuantisedCheckpoint(CodedCheckpoint):
    def __init__(
        self, checkpoint: Checkpoint, method: _Method, layout: Literal["gptq", "awq"]
    ) -> None:
        self._method, self._layout = method, layout
        names = checkpoint.names()
        plain = {name for name in names if not name.endswith(_PARTS)}
        coded = {
            f"{name.removesuffix('.qweight')}.weight" for name in names if name.endswith(".qweight")
        }
        super().__init__(checkpoint, plain, coded)

    def _read(self, name: str) -> Codes:
        matrix = name.removesuffix(".weight")
        words, zeros, scales = (
            self._checkpoint.array(matrix + part) for part in (".qweight", ".qzeros", ".scales")
        )
        if self._layout == "awq":
            codes, zeros = (_unpack_nibbles_of_awq(packed) for packed in (words, zeros))
        else:
            codes = unpack_words(words.T, self._method.bits).T
            zeros = unpack_words(zeros, self._method.bits)
            zeros = zeros + (self._method.checkpoint_format == "gptq")
        inputs, outputs = codes.shape
        if zeros.shape != scales.shape or scales.shape[1] != outputs:
            raise StartError(
                f"{matrix}: scales {scales.shape} and zeros {zeros.shape} do not fit the "
                f"{outputs} outputs of its codes; fetch it again"
            )
        size = self._method.group_size if self._method.group_size > 0 else inputs
        return Codes(
            self._method.bits,
            np.ascontiguousarray(codes.T).astype(np.uint8),
            scales.astype(np.float16),
            zeros.astype(np.int32),
            self._groups(matrix, f"{matrix}.g_idx", inputs, len(scales), size),
        )


def _unpack_nibbles_of_awq(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
    nibbles = unpack_words(words, 4).reshape(len(words), -1, 8)
    outputs = np.empty_like(nibbles)
    outputs[..., _AWQ_ORDER] = nibbles
    return outputs.reshape(len(words), -1)
