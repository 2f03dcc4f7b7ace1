"""Keys and values of all layers on a GPU, and what brings those of a step's rows there."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.kv_formats import BFLOAT16, CacheFormat
from openinference_engine.ops.cuda_cache import empty_layers


class KVCache:
    """Keys and values of all layers, laid out as ops.cuda_cache says; a block is 16 positions."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        device: torch.device,
        cache_format: CacheFormat = BFLOAT16,
    ) -> None:
        sizes = config.num_layers, num_blocks, config.num_kv_heads, config.head_dim
        self.keys = empty_layers(cache_format.keys, *sizes, device)
        self.values = empty_layers(cache_format.values, *sizes, device)
        self._new_vectors_shape = sizes[2:] if cache_format.is_coded else None

    def new_vectors(self, rows: int) -> tuple[Tensor, Tensor] | None:
        """Where the keys and values of a step's rows wait for their codes, if they need any."""
        if self._new_vectors_shape is None:
            return None
        shape, device = (rows, *self._new_vectors_shape), self.keys[0].device
        keys, values = torch.zeros(2, *shape, dtype=torch.bfloat16, device=device).unbind()
        return keys, values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.keys[index], self.values[index]


def queue_qkv(
    kernels: ModuleType,
    projection: tuple[Tensor, Tensor, float, Tensor, Tensor],
    positions: Tensor,
    pages: Tensor,
    query: Tensor,
    new_vectors: tuple[Tensor, Tensor] | None,
    cache: tuple[Tensor, Tensor],
    stream: Any,
) -> None:
    """Projects R rows and appends their keys and values to a layer's cache, `new_vectors` between.

    projection: x, sum_squares, epsilon, weights and rotary, as project_qkv takes them.
    """
    if new_vectors is None:
        kernels.project_qkv(*projection, positions, pages, query, *cache, stream)
        return
    keys, values = (vectors[: len(positions)] for vectors in new_vectors)
    kernels.project_qkv(*projection, positions, pages[:, :0], query, keys, values, stream)
    kernels.append_codes(keys, values, positions, pages, *cache, stream)
