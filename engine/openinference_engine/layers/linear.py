"""Projections. A layer names the checkpoint tensors it merges; one matmul then serves them all."""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.weights.checkpoint import ALL
from openinference_engine.weights.loader import Weights


class Linear:
    """y = x · Wᵀ + b over the rows of several checkpoint tensors, stacked in the order given.

    Neighbours in one storage format become one weight; some checkpoints mix formats in a layer.
    """

    def __init__(
        self,
        weights: Weights,
        parts: dict[str, int],
        num_inputs: int,
        outputs: dict[str, slice] | None = None,
    ) -> None:
        """`parts`: name → number of outputs. A bias is used where the checkpoint has one.

        `outputs`: those that this rank computes of each part, all unless given.
        """
        rows = outputs or dict.fromkeys(parts, ALL)
        stored = [
            weights.stored(f"{name}.weight", (size, num_inputs), rows[name])
            for name, size in parts.items()
        ]
        self._weights = [
            ops.pack(name, [matrix.rows for matrix in same], num_inputs)
            for name, same in groupby(stored, key=lambda matrix: matrix.format)
        ]
        self._observe = weights.observe
        self._names = [f"{weights.prefix}{name}.weight" for name in parts]
        self._bias = None
        if all(weights.has(f"{name}.bias") for name in parts):
            self._bias = torch.cat(
                [weights.tensor(f"{name}.bias", (parts[name],), rows[name]) for name in parts]
            ).float()

    def __call__(self, x: Tensor) -> Tensor:
        if self._observe is not None:
            self._observe(self._names, x)
        if len(self._weights) == 1:
            return ops.linear(x, self._weights[0], self._bias)
        output = torch.cat([ops.linear(x, weight) for weight in self._weights], dim=-1)
        return output if self._bias is None else output + self._bias
