"""The kernels as they multiply packed weights by activations of eight bits, on Hopper.

A stand-in for the kernels' module: the same ops and arguments. Rows become codes before a product
of so many that computing and unpacking weights take longer than reading them; fewer rows stay as
they are. The head's product takes no codes.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine import coded_groups, coded_rows, fp8, int8, summed_rows
from openinference_engine.activation_codes import CODE_TYPES
from openinference_engine.config import (
    ActivationChoice,
    CodedActivations,
    EngineConfig,
    ModelConfig,
    WeightFormat,
)
from openinference_engine.errors import StartError
from openinference_engine.packings import packing_of

_FEW_ROWS = 32  # kBatchTokens of csrc/gpu/batch_gemm.cuh, which is as fast up to there
# The weights that each can meet. (The operator's activations.py says it in its own words.)
WEIGHTS_OF: dict[CodedActivations, tuple[WeightFormat, ...]] = {
    "fp8": ("fp8", "int4", "int4-zero"), "int8": ("int8",)
}  # fmt: skip


def activations_of(weight_format: WeightFormat) -> CodedActivations | None:
    """What such weights can meet."""
    return next((name for name, able in WEIGHTS_OF.items() if weight_format in able), None)


def check_activations(model: ModelConfig, config: EngineConfig) -> None:
    """Raises StartError for what is not multiplied as codes."""
    flag = f"--activations {config.activations}"
    if config.activations == "auto":
        return
    if config.weight_format not in (able := WEIGHTS_OF[config.activations]):
        raise StartError(
            f"{flag} needs weights in {' or '.join(able)}, and these are {config.weight_format}; "
            f"use {' or '.join(f'--weights {name}' for name in able)}, or leave --activations out"
        )
    if config.is_deterministic:
        raise StartError(
            f"{flag}: --deterministic takes 16 rows at a time, which stay in bfloat16; use one of "
            "the two"
        )
    if model.experts is not None or config.group.num_ranks > 1:
        raise StartError(
            f"{flag} is for dense models on one GPU so far; leave it out, or use one GPU and a "
            "model without experts"
        )
    widest, most = _widest(model), coded_rows.MOST_COLUMNS
    if config.activations == "fp8" and widest > most:
        raise StartError(
            f"{flag} codes rows of at most {most} columns, and this model has some of {widest}; "
            "leave it out"
        )


def room_bytes(model: ModelConfig, most_rows: int) -> int:
    """Of the codes of one product."""
    kinds = coded_groups, coded_rows, summed_rows
    num_bytes: int = max(prod(kind.shape_of(most_rows, _widest(model))) for kind in kinds)
    return num_bytes


class CodedKernels:
    """The codes of one product are kept at a time."""

    def __init__(
        self,
        kernels: ModuleType,
        activations: CodedActivations,
        model: ModelConfig,
        most_rows: int,
        device: torch.device,
    ) -> None:
        self._kernels, self._dtype = kernels, CODE_TYPES[activations]
        self._room = torch.zeros(room_bytes(model, most_rows), dtype=torch.uint8, device=device)
        self._no_norms = torch.zeros(most_rows, 0, device=device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def project_qkv(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded = self._coded(x, sum_squares, epsilon, others)
        self._kernels.project_qkv(coded, sum_squares, epsilon, *others)

    def project_normed_qkv(
        self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any
    ) -> None:
        coded = self._coded(x, sum_squares, epsilon, others)
        self._kernels.project_normed_qkv(coded, sum_squares, epsilon, *others)

    def project_gate_up(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded = self._coded(x, sum_squares, epsilon, others)
        self._kernels.project_gate_up(coded, sum_squares, epsilon, *others)

    def project_residual(self, input: Tensor, *others: Any) -> None:
        coded = self._coded(input, self._no_norms[: len(input)], 0, others)
        self._kernels.project_residual(coded, *others)

    def _coded(self, x: Tensor, norm: Tensor, epsilon: float, others: tuple[Any, ...]) -> Tensor:
        """As a product takes it whose other arguments begin with weights and end with a stream."""
        if len(x) <= _FEW_ROWS:
            return x
        weights, stream = others[0], others[-1]
        kind = _kind_of(weights)
        shape = kind.shape_of(*x.shape)
        coded = self._room[: prod(shape)].view(shape).view(self._dtype)
        code = self._kernels.code_groups if kind is coded_groups else self._kernels.code_rows
        code(x, norm, epsilon, coded, stream)
        return coded


def with_activations(
    kernels: ModuleType,
    activations: ActivationChoice,
    model: ModelConfig,
    most_rows: int,
    device: torch.device,
) -> ModuleType:
    """The kernels themselves, or what stands for them; most_rows: of a step."""
    if activations == "auto":
        return kernels
    return CodedKernels(kernels, activations, model, most_rows, device)  # type: ignore[return-value]


def _kind_of(weights: Tensor) -> ModuleType:
    """How rows are coded that such weights meet."""
    packing = packing_of(weights)
    if packing is int8:
        return coded_groups
    return coded_rows if packing is fp8 else summed_rows


def _widest(model: ModelConfig) -> int:
    """Columns of the widest input of a product."""
    return max(model.hidden_size, model.intermediate_size, model.num_heads * model.head_dim)
