"""The gated feed-forward block (SwiGLU, arXiv:2002.05202)."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class GatedMLP:
    """Among ranks each computes some of the columns, inner and outer ones."""

    def __init__(self, weights: Weights, hidden: int, inner: int) -> None:
        self._team = weights.ranks.tensor
        self._hidden, self._inner = hidden, inner
        parts = {"gate_proj": inner, "up_proj": inner}
        own = dict.fromkeys(parts, self._team.share(inner))
        self._gate_up = Linear(weights, parts, hidden, own)
        own = {"down_proj": self._team.share(hidden)}
        self._down = Linear(weights, {"down_proj": hidden}, inner, own)

    def __call__(self, x: Tensor) -> Tensor:
        inner = self._team.gather_columns(ops.silu_mul(self._gate_up(x)), self._inner)
        return self._team.gather_columns(self._down(inner), self._hidden)
