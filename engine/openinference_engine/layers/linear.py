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
        inputs: slice = ALL,
    ) -> None:
        """`parts`: name → number of outputs. A bias is used where the checkpoint has one.

        Among ranks: `outputs` are those that this one computes of each part, or `inputs` those
        whose part of every sum it computes; the first rank adds the bias then.
        """
        rows = outputs or dict.fromkeys(parts, ALL)
        stored = [
            weights.stored(f"{name}.weight", (size, num_inputs), rows[name], inputs)
            for name, size in parts.items()
        ]
        num_own = len(range(*inputs.indices(num_inputs)))
        self._weights = [
            ops.pack(name, [matrix.rows for matrix in same], num_own)
            for name, same in groupby(stored, key=lambda matrix: matrix.format)
        ]
        self._observe = weights.observe
        self._names = [f"{weights.prefix}{name}.weight" for name in parts]
        self._bias = None
        adds_bias = inputs == ALL or weights.ranks.tensor.index == 0
        if adds_bias and all(weights.has(f"{name}.bias") for name in parts):
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
