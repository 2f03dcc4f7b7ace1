"""Runs steps on one rank: Step → tensors → model → drawn tokens. Owns the model and its cache.

Stateless between steps but for the cache: everything about a sequence arrives with its chunk.
"""

from __future__ import annotations

import torch

from openinference_engine.batch import build_batch
from openinference_engine.config import DataType, ModelConfig
from openinference_engine.layers.attention import KVCache
from openinference_engine.models.registry import Model
from openinference_engine.sampling import sample
from openinference_engine.scheduler import Step

# What weights become; "auto" keeps matrices as they are stored and makes the rest float32.
TORCH_DTYPES: dict[DataType, torch.dtype] = {
    "auto": torch.float32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Runner:
    def __init__(self, model: Model, config: ModelConfig, num_blocks: int, block_size: int) -> None:
        self._model = model
        self._block_size = block_size
        self._cache = KVCache(config, num_blocks, block_size)

    def run(self, step: Step) -> list[int]:
        """Computes all chunks; returns one token for each that draws, in order."""
        draws = [chunk.draw for chunk in step.chunks if chunk.draw is not None]
        logits = self.logits(step)
        return sample(logits, draws) if draws else []

    @torch.inference_mode()
    def logits(self, step: Step) -> torch.Tensor:
        """(S, vocab): logits behind the last token of each chunk that draws."""
        return self._model(build_batch(step.chunks, self._block_size), self._cache)
