"""The sparse feed-forward block: many gated MLPs, of which each token uses a few."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ExpertsConfig
from openinference_engine.layers.linear import Linear
from openinference_engine.ranks.combine import combine
from openinference_engine.ranks.layout import share
from openinference_engine.weights.loader import Weights


class Experts:
    """A token's result is the sum over its experts in the order of their numbers, each times its
    share: neither the tokens beside it nor their experts change a bit of it.

    Among ranks each has some of the experts, and gives what they make of a token to the others.
    """

    def __init__(self, weights: Weights, hidden: int, config: ExpertsConfig) -> None:
        self._config = config
        self._team = weights.ranks.stage
        self._router = Linear(weights, {"gate": config.count}, hidden)
        self._owners = torch.empty(config.count, dtype=torch.int64)
        for rank in range(self._team.size):
            self._owners[share(config.count, self._team.size, rank)] = rank
        own = weights.ranks.experts(config.count)
        self._first = own.start
        inner = config.intermediate_size

        def of_each(name: str, shape: tuple[int, int]) -> list[ops.Weight]:
            return [weights.matrix(f"experts.{number}.{name}.weight", shape) for number in own]

        if own:
            self._weights = ops.ExpertWeights(
                of_each("gate_proj", (inner, hidden)),
                of_each("up_proj", (inner, hidden)),
                of_each("down_proj", (hidden, inner)),
            )

    def __call__(self, x: Tensor) -> Tensor:
        """x: (T, hidden) → (T, hidden)."""
        config = self._config
        ids, shares = ops.route(self._router(x), config.per_token, config.normalises_shares)
        if self._team.size == 1:
            return ops.experts(x, ids, shares, self._weights)
        ids, order = ids.sort(dim=1)
        owners = self._owners[ids]
        tokens, places = (owners == self._team.index).nonzero(as_tuple=True)
        own = x[tokens]
        if len(tokens):
            own_ids = (ids - self._first)[tokens, places, None]
            own_shares = shares.gather(1, order)[tokens, places, None]
            own = ops.experts(own, own_ids, own_shares, self._weights)
        return combine(self._team, own, owners)
