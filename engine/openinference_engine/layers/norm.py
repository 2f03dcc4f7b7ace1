"""Root-mean-square normalisation (arXiv:1910.07467)."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.weights.loader import Weights


class RMSNorm:
    def __init__(self, weights: Weights, size: int, epsilon: float) -> None:
        self._weight = weights.tensor("weight", (size,)).float()
        self._epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self._weight, self._epsilon)
