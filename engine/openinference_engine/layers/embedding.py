"""The vocabulary's matrix: rows of it as input, products with all of them as output."""

from __future__ import annotations

from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ModelConfig
from openinference_engine.weights.loader import Weights


class Vocabulary:
    """Among ranks each has some of the tokens: an embedding is summed, logits are put together
    where a token is drawn.
    """

    def __init__(self, weights: Weights, name: str, config: ModelConfig) -> None:
        self._team = weights.ranks.tensor
        self._own = self._team.share(config.vocab_size)
        self._weight = weights.matrix(name, (config.vocab_size, config.hidden_size), self._own)

    def embed(self, token_ids: Tensor) -> Tensor:
        """token_ids: (T,) int64 → (T, hidden)."""
        if self._team.size == 1:
            return ops.embedding(token_ids, self._weight)
        is_own = (token_ids >= self._own.start) & (token_ids < self._own.stop)
        rows = ops.embedding((token_ids - self._own.start) * is_own, self._weight)
        return self._team.sum(rows.masked_fill_(~is_own[:, None], 0))

    def logits(self, states: Tensor) -> Tensor:
        """(S, hidden) → (S, own tokens)."""
        return ops.linear(states, self._weight)
