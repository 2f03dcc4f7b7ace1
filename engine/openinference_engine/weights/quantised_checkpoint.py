"""Checkpoints of GPTQ and AWQ tools: four- or eight-bit codes in int32 words, beside their scales.

A matrix `x.weight` is stored as x.qweight, x.qzeros, x.scales and maybe x.g_idx, inputs first;
weight = scale · (code − zero), with a scale and a zero for each output and group of inputs.
Layouts: https://github.com/AutoGPTQ/AutoGPTQ and https://github.com/casper-hansen/AutoAWQ (GEMM).

`codes` says in which format a matrix is handed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.coded_checkpoint import SCALE_TYPES, CodedCheckpoint
from openinference_engine.weights.compressed_tensors import (
    CompressedCheckpoint,
    refuse_codes_without_scales,
)
from openinference_engine.weights.config_file import decode_config
from openinference_engine.weights.stored_codes import StoredCodes

_PARTS = (".qweight", ".qzeros", ".scales", ".g_idx")


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
            return QuantisedCheckpoint(checkpoint, method, "columns")
        case _Method(quant_method="awq", bits=4, version="gemm" | "GEMM"):
            return QuantisedCheckpoint(checkpoint, method, "awq")
    raise StartError(
        f"{config_file}: quantization_config names {method.quant_method!r} of {method.bits} bits, "
        f"format {method.checkpoint_format!r}, version {method.version!r}; known are gptq of 4 or "
        "8 bits (gptq, gptq_v2), awq of 4 bits (gemm) and compressed-tensors"
    )


class QuantisedCheckpoint(CodedCheckpoint):
    def __init__(
        self, checkpoint: Checkpoint, method: _Method, layout: Literal["columns", "awq"]
    ) -> None:
        self._method, self._layout = method, layout
        names = checkpoint.names()
        plain = {name for name in names if not name.endswith(_PARTS)}
        coded = {
            f"{name.removesuffix('.qweight')}.weight" for name in names if name.endswith(".qweight")
        }
        super().__init__(checkpoint, plain, coded)

    @property
    def group_size(self) -> int | None:
        size = self._method.group_size
        return size if size > 0 else None

    def stored_codes(self, name: str) -> StoredCodes:
        matrix = name.removesuffix(".weight")
        words, zeros = (self._words(matrix + part) for part in (".qweight", ".qzeros"))
        scales = self._matrix(f"{matrix}.scales", "scales", SCALE_TYPES)
        per_word = 32 // self._method.bits
        inputs, outputs = words.shape
        if self._layout == "awq":
            outputs *= per_word
        else:
            inputs *= per_word
        zero_outputs = zeros.shape[1] * per_word
        if len(zeros) != len(scales) or not outputs == scales.shape[1] == zero_outputs:
            raise StartError(
                f"{matrix}: scales {scales.shape} and zeros {(len(zeros), zero_outputs)} do not "
                f"fit the {outputs} outputs of its codes; fetch it again"
            )
        size = self.group_size or inputs
        return StoredCodes(
            self._layout,
            self._method.bits,
            (outputs, inputs),
            words,
            scales,
            zeros,
            self._groups(matrix, f"{matrix}.g_idx", inputs, len(scales), size),
            zero_offset=int(self._method.checkpoint_format == "gptq" and self._layout == "columns"),
        )
