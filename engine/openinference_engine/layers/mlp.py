"""The gated feed-forward block (SwiGLU, arXiv:2002.05202)."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class GatedMLP:
    """Among ranks each has some of the inner columns, and the sum of all is the result."""

    def __init__(self, weights: Weights, hidden: int, inner: int) -> None:
        self._team = weights.ranks.tensor
        own = weights.own_inputs("down_proj.weight", inner)
        parts = {"gate_proj": inner, "up_proj": inner}
        self._gate_up = Linear(weights, parts, hidden, outputs=dict.fromkeys(parts, own))
        self._down = Linear(weights, {"down_proj": hidden}, inner, inputs=own)

    def __call__(self, x: Tensor) -> Tensor:
        return self._team.sum(self._down(ops.silu_mul(self._gate_up(x))))
