"""Self-attention over the paged cache, and the cache tensors of all layers."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ModelConfig
from openinference_engine.layers.linear import Linear
from openinference_engine.weights.loader import Weights


class KVCache:
    """Keys and values of all layers, (blocks × positions per block, K, D) each.

    Untouched memory costs nothing: pages are not written before a block is first used.
    """

    def __init__(self, config: ModelConfig, num_slots: int, dtype: torch.dtype) -> None:
        shape = (config.num_layers, num_slots, config.num_kv_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype).unbind()
        self.values = torch.empty(shape, dtype=dtype).unbind()


class Attention:
    """Grouped-query attention of one layer."""

    def __init__(self, weights: Weights, config: ModelConfig, layer: int) -> None:
        self._layer = layer
        self._head_dim = config.head_dim
        self._sizes = [
            config.num_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
            config.num_kv_heads * config.head_dim,
        ]
        names = ("q_proj", "k_proj", "v_proj")
        parts = dict(zip(names, self._sizes, strict=True))
        self._qkv = Linear(weights, parts, config.hidden_size)
        self._output = Linear(weights, {"o_proj": config.hidden_size}, self._sizes[0])

    def __call__(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache, plan: ops.AttentionPlan
    ) -> Tensor:
        """x: (T, hidden) → (T, hidden); writes this step's keys and values into the cache."""
        query, key, value = (
            part.view(len(x), -1, self._head_dim)
            for part in torch.split(self._qkv(x), self._sizes, dim=-1)
        )  # (T, heads, D)
        query, key = ops.rotate(query, *rotary), ops.rotate(key, *rotary)
        keys, values = cache.keys[self._layer], cache.values[self._layer]
        ops.append_kv(key, value, keys, values, plan.slots)
        return self._output(ops.paged_attention(query, keys, values, plan).flatten(1))
