"""The sparse feed-forward block: many gated MLPs, of which each token uses a few."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ExpertsConfig
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class Experts:
    """A token's result is the sum over its experts in the order of their numbers, each times its
    share: neither the tokens beside it nor their experts change a bit of it.

    Among ranks each has some of the experts, or slices of them, and the sum of all is the result.
    """

    def __init__(self, weights: Weights, hidden: int, config: ExpertsConfig) -> None:
        self._config = config
        self._team = weights.ranks.stage
        self._own = weights.ranks.experts(config.count)
        self._router = Linear(weights, {"gate": config.count}, hidden)
        inner = config.intermediate_size
        down = f"experts.{self._own.start}.down_proj.weight"
        columns = weights.own_inputs(down, inner)

        def of_each(name: str, shape: tuple[int, int], **part: slice) -> list[ops.Weight]:
            names = (f"experts.{number}.{name}.weight" for number in self._own)
            return [weights.matrix(name, shape, **part) for name in names]

        self._weights = ops.ExpertWeights(
            of_each("gate_proj", (inner, hidden), rows=columns),
            of_each("up_proj", (inner, hidden), rows=columns),
            of_each("down_proj", (hidden, inner), columns=columns),
        )

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, hidden) → (T, hidden)."""
        config = self._config
        ids, shares = ops.route(self._router(x), config.per_token, config.normalises_shares)
        if len(self._own) < config.count:
            is_own = (ids >= self._own.start) & (ids < self._own.stop)
            ids = torch.where(is_own, ids - self._own.start, ops.ELSEWHERE)
        return self._team.sum(ops.experts(x, ids, shares, self._weights))
