"""Which class builds which architecture. A new model is one file and one line here."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from openinference_engine.batch import Batch
from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.layers.attention import KVCache
from openinference_engine.models.llama import Llama
from openinference_engine.weights.loader import Weights


class Model(Protocol):
    def embed(self, batch: Batch) -> Tensor:
        """First stage: what the layers begin with, (T, hidden)."""

    def layers(self, hidden: Tensor, batch: Batch, cache: KVCache) -> Tensor:
        """(T, hidden) → (T, hidden); writes the step's keys and values into the cache."""

    def states(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Last stage: what the logits of `batch.logit_rows` are made of, (S, hidden)."""

    def logits(self, states: Tensor) -> Tensor:
        """Last stage: (S, hidden) → (S, vocab), or of the tokens that this rank has."""


_MODELS = {
    "llama": Llama,
    "mistral": Llama,
    "mixtral": Llama,
    "qwen2": Llama,
    "qwen3": Llama,
    "qwen3moe": Llama,
}


def build_model(weights: Weights, config: ModelConfig, num_positions: int) -> Model:
    """Loads the model. Raises StartError for an unknown architecture or a missing tensor."""
    if config.architecture not in _MODELS:
        known = ", ".join(_MODELS)
        raise StartError(f"architecture {config.architecture!r} is unknown; known are {known}")
    return _MODELS[config.architecture](weights, config, num_positions)
