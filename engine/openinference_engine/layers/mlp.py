"""The gated feed-forward block (SwiGLU, arXiv:2002.05202)."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class GatedMLP:
    def __init__(self, weights: Weights, hidden: int, inner: int) -> None:
        self._gate_up = Linear(weights, {"gate_proj": inner, "up_proj": inner}, hidden)
        self._down = Linear(weights, {"down_proj": hidden}, inner)

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(ops.silu_mul(self._gate_up(x)))
