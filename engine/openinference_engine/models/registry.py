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
    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Logits of `batch.logit_rows`: (S, vocab)."""

    def states(self, batch: Batch, cache: KVCache) -> Tensor:
        """What these logits are made of, behind the last norm: (S, hidden)."""

    def logits(self, states: Tensor) -> Tensor: ...


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
