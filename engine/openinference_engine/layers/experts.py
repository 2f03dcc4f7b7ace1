"""The sparse feed-forward block: many gated MLPs, of which each token uses a few."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ExpertsConfig
from openinference_engine.layers.linear import Linear
from openinference_engine.layers.mlp import GatedMLP
from openinference_engine.weights.loader import Weights


class Experts:
    """A token's result is the sum over its experts in the order of their numbers, each times its
    share: neither the tokens beside it nor their experts change a bit of it.
    """

    def __init__(self, weights: Weights, hidden: int, config: ExpertsConfig) -> None:
        self._config = config
        self._router = Linear(weights, {"gate": config.count}, hidden)
        self._experts = [
            GatedMLP(weights.at(f"experts.{number}"), hidden, config.intermediate_size)
            for number in range(config.count)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, hidden) → (T, hidden)."""
        config = self._config
        ids, shares = ops.route(self._router(x), config.per_token, config.normalises_shares)
        output = torch.zeros_like(x)
        for number in sorted(set(ids.flatten().tolist())):
            rows, places = (ids == number).nonzero(as_tuple=True)
            output[rows] += shares[rows, places, None] * self._experts[number](x[rows])
        return output
