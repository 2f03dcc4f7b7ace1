"""The kernels as they multiply weights of eight bits by activations of eight bits, on Hopper.

A stand-in for the kernels' module: the same ops and arguments. Rows become codes before a product
of so many that computing and unpacking weights take longer than reading them; fewer rows stay as
they are. The products of heads that are normed, and the head's, take no codes.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.coded_rows import CODE_TYPES, shape_of
from openinference_engine.config import (
    ActivationChoice,
    CodedActivations,
    EngineConfig,
    ModelConfig,
)
from openinference_engine.errors import StartError

_FEW_ROWS = 32  # kBatchTokens of csrc/gpu/batch_gemm.cuh, which is as fast up to there


def check_activations(model: ModelConfig, config: EngineConfig) -> None:
    """Raises StartError for what is not multiplied as codes."""
    flag = f"--activations {config.activations}"
    if config.activations == "auto":
        return
    if config.weight_format != config.activations:
        raise StartError(
            f"{flag} needs weights of the same type, and these are {config.weight_format}; use "
            f"--weights {config.activations}, or leave --activations out"
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
        num_bytes = prod(shape_of(most_rows, _widest(model)))
        self._room = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._no_norms = torch.zeros(most_rows, 0, device=device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def project_qkv(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded = self._coded(x, sum_squares, epsilon, others[-1])
        self._kernels.project_qkv(coded, sum_squares, epsilon, *others)

    def project_gate_up(self, x: Tensor, sum_squares: Tensor, epsilon: float, *others: Any) -> None:
        coded = self._coded(x, sum_squares, epsilon, others[-1])
        self._kernels.project_gate_up(coded, sum_squares, epsilon, *others)

    def project_residual(self, input: Tensor, *others: Any) -> None:
        no_norm = self._no_norms[: len(input)]
        self._kernels.project_residual(self._coded(input, no_norm, 0, others[-1]), *others)

    def _coded(self, x: Tensor, sum_squares: Tensor, epsilon: float, stream: Any) -> Tensor:
        if len(x) <= _FEW_ROWS:
            return x
        shape = shape_of(*x.shape)
        coded = self._room[: prod(shape)].view(shape).view(self._dtype)
        self._kernels.code_rows(x, sum_squares, epsilon, coded, stream)
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


def _widest(model: ModelConfig) -> int:
    """Columns of the widest input of a product."""
    return max(model.hidden_size, model.intermediate_size, model.num_heads * model.head_dim)
