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

from openinference_engine import coded_rows, int4, int4_zero, summed_rows
from openinference_engine.coded_rows import CODE_TYPES
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


class CodedKernels:
    """The codes of one product are kept at a time, and those that a residual's product made."""

    def __init__(
        self,
        kernels: ModuleType,
        activations: CodedActivations,
        model: ModelConfig,
        most_rows: int,
        device: torch.device,
    ) -> None:
        self._kernels, self._dtype = kernels, CODE_TYPES[activations]
        widest = most_rows, _widest(model)
        num_bytes = max(prod(kind.shape_of(*widest)) for kind in (coded_rows, summed_rows))
        self._room, self._made = (
            torch.zeros(num_bytes, dtype=torch.uint8, device=device) for _ in range(2)
        )
        groups, padded, _ = coded_rows.shape_of(most_rows, model.hidden_size)
        self._squares = torch.zeros(groups * padded, device=device)
        self._no_norms = torch.zeros(most_rows, 0, device=device)
        self._coded_x: tuple[int, int] | None = None  # where it is, and its rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def embed(self, *arguments: Any) -> None:
        self._coded_x = None
        self._kernels.embed(*arguments)

    def project_qkv(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded, squares = self._normed(x, sum_squares, epsilon, others)
        self._kernels.project_qkv(coded, squares, epsilon, *others)

    def project_normed_qkv(
        self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any
    ) -> None:
        coded = self._coded(x, sum_squares, epsilon, others)
        self._kernels.project_normed_qkv(coded, sum_squares, epsilon, *others)

    def project_gate_up(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded, squares = self._normed(x, sum_squares, epsilon, others)
        self._kernels.project_gate_up(coded, squares, epsilon, *others)

    def project_residual(
        self,
        input: Tensor,
        weights: Tensor,
        norm_weight: Tensor,
        hidden: Tensor,
        x: Tensor,
        sum_squares: Tensor,
        stream: Any,
    ) -> None:
        arguments = weights, norm_weight, hidden, x, sum_squares
        coded = self._coded(input, self._no_norms[: len(input)], 0, (*arguments, stream))
        self._coded_x = None
        if len(x) <= _FEW_ROWS or _needs_sums(weights):
            self._kernels.project_residual(coded, *arguments, stream)
            return
        made, squares = self._view(self._made, x), self._squares_of(x)
        self._kernels.project_residual_and_code(coded, *arguments, made, squares, stream)
        self._coded_x = x.data_ptr(), len(x)

    def _normed(
        self, x: Tensor, sum_squares: Tensor, epsilon: float, others: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        """x as a product takes it, and the sums of squares of its norm."""
        if self._coded_x == (x.data_ptr(), len(x)):
            return self._view(self._made, x), self._squares_of(x)
        return self._coded(x, sum_squares, epsilon, others), sum_squares

    def _coded(self, x: Tensor, norm: Tensor, epsilon: float, others: tuple[Any, ...]) -> Tensor:
        """As a product takes it whose other arguments begin with weights and end with a stream."""
        if len(x) <= _FEW_ROWS:
            return x
        weights, stream = others[0], others[-1]
        is_summed = _needs_sums(weights)
        coded = self._view(self._room, x, summed_rows if is_summed else coded_rows)
        code = self._kernels.code_summed_rows if is_summed else self._kernels.code_rows
        code(x, norm, epsilon, coded, stream)
        return coded

    def _view(self, room: Tensor, x: Tensor, kind: ModuleType = coded_rows) -> Tensor:
        shape = kind.shape_of(*x.shape)
        return room[: prod(shape)].view(shape).view(self._dtype)

    def _squares_of(self, x: Tensor) -> Tensor:
        groups, padded, _ = coded_rows.shape_of(*x.shape)
        return self._squares[: groups * padded].view(groups, padded)


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


def _needs_sums(weights: Tensor) -> bool:
    return packing_of(weights) in (int4, int4_zero)


def _widest(model: ModelConfig) -> int:
    """Columns of the widest input of a product."""
    return max(model.hidden_size, model.intermediate_size, model.num_heads * model.head_dim)
