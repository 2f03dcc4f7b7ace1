"""Projections. A layer names the checkpoint tensors it merges; one matmul then serves them all."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.weights.loader import Weights


class Linear:
    """y = x · Wᵀ + b over the rows of several checkpoint tensors, stacked in the order given."""

    def __init__(self, weights: Weights, parts: dict[str, int], num_inputs: int) -> None:
        """`parts`: name → number of outputs. A bias is used where the checkpoint has one."""
        self._weight = torch.cat(
            [weights.tensor(f"{name}.weight", (size, num_inputs)) for name, size in parts.items()]
        )
        self._bias = None
        if all(weights.has(f"{name}.bias") for name in parts):
            self._bias = torch.cat(
                [weights.tensor(f"{name}.bias", (size,)) for name, size in parts.items()]
            )

    def __call__(self, x: Tensor) -> Tensor:
        return ops.linear(x, self._weight, self._bias)
