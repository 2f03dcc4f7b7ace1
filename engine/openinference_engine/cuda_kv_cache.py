"""Keys and values of all layers on a GPU, and what brings those of a step's rows there."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.kv_formats import BFLOAT16, CacheFormat
from openinference_engine.llama_weights import LayerWeights
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
        self.is_coded = cache_format.is_coded
        self._vectors_shape = sizes[2:]

    def uncoded(self, rows: int) -> tuple[Tensor, Tensor] | None:
        """Room for keys and values of a layer in bf16, if the cache holds codes."""
        if not self.is_coded:
            return None
        shape, device = (rows, *self._vectors_shape), self.keys[0].device
        keys, values = torch.zeros(2, *shape, dtype=torch.bfloat16, device=device).unbind()
        return keys, values

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        return self.keys[index], self.values[index]


def new_head_bytes(config: ModelConfig, is_coded: bool) -> int:
    """What `NewHeads` takes for a row. is_coded: the cache holds codes."""
    vectors = 2 * 2 * config.num_kv_heads if is_coded else 0
    sums = 4 * (config.num_heads + 2 * config.num_kv_heads) if config.norms_heads else 0
    return config.head_dim * (vectors + sums)


class NewHeads:
    """What the queries, keys and values of up to `rows` rows pass through on their way.

    Sums of heads wait for their norms where a model has such and no product has whole heads; keys
    and values for their codes where the cache holds codes.
    """

    def __init__(self, config: ModelConfig, cache: KVCache, rows: int) -> None:
        self._vectors = cache.uncoded(rows)
        self._sums: Tensor | None = None
        if config.norms_heads:
            columns = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
            self._sums = torch.zeros(rows, columns, device=cache.keys[0].device)

    def queue(
        self,
        kernels: ModuleType,
        layer: LayerWeights,
        normed: tuple[Tensor, Tensor, float],
        rotary: Tensor,
        places: tuple[Tensor, Tensor],
        query: Tensor,
        cache: tuple[Tensor, Tensor],
        stream: Any,
    ) -> None:
        """Projects R rows and appends their keys and values to a layer's cache.

        normed: x, sum_squares and epsilon; places: positions and pages, as project_qkv takes them.
        """
        positions, pages = places
        targets = pages, query, *cache
        if self._vectors is not None:
            keys, values = (vectors[: len(positions)] for vectors in self._vectors)
            targets = pages[:, :0], query, keys, values
        if self._sums is None:
            kernels.project_qkv(*normed, layer.qkv, rotary, positions, *targets, stream)
        else:
            sums = self._sums[: len(positions)]
            kernels.project_normed_qkv(
                *normed, layer.qkv, layer.head_norms, sums, rotary, positions, *targets, stream
            )
        if self._vectors is not None:
            kernels.append_codes(*targets[2:], positions, pages, *cache, stream)
