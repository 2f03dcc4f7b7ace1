"""The sparse feed-forward block: many gated MLPs, of which each token uses a few."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ExpertsConfig
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class Experts:
    """A token's result is the sum over its experts in the order of their numbers, each times its
    share: neither the tokens beside it nor their experts change a bit of it.
    """

    def __init__(self, weights: Weights, hidden: int, config: ExpertsConfig) -> None:
        self._config = config
        self._router = Linear(weights, {"gate": config.count}, hidden)
        inner = config.intermediate_size

        def of_each(name: str, shape: tuple[int, int]) -> list[ops.Weight]:
            names = (f"experts.{number}.{name}.weight" for number in range(config.count))
            return [weights.matrix(name, shape) for name in names]

        self._weights = ops.ExpertWeights(
            of_each("gate_proj", (inner, hidden)),
            of_each("up_proj", (inner, hidden)),
            of_each("down_proj", (hidden, inner)),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, hidden) → (T, hidden)."""
        logits = self._router(x)
        ids, shares = ops.route(logits, self._config.per_token, self._config.normalises_shares)
        return ops.experts(x, ids, shares, self._weights)
