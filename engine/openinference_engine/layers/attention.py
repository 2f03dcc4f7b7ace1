"""Self-attention over the paged cache, and the cache of all layers."""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine import ops
from openinference_engine.config import ModelConfig
from openinference_engine.kv_formats import FLOAT32, CacheFormat
from openinference_engine.layers.linear import Linear
from openinference_engine.layers.norm import RMSNorm
from openinference_engine.ranks.team import ALONE, Ranks
from openinference_engine.weights.loader import Weights


class KVCache:
    """Keys and values of those layers and heads that this rank has."""

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        cache_format: CacheFormat = FLOAT32,
        ranks: Ranks = ALONE,
    ) -> None:
        heads = ranks.kv_heads(config)
        sizes = (num_blocks, heads.stop - heads.start, config.head_dim, block_size)
        self.layers = {
            layer: ops.LayerCache(cache_format, *sizes) for layer in ranks.layers(config)
        }


class Attention:
    """Grouped-query attention of one layer.

    Where the checkpoint has norms of query and key heads (Qwen3), they apply before the rotation.
    Among ranks each has some of the heads, and computes some of the columns of the result.
    """

    def __init__(self, weights: Weights, config: ModelConfig, layer: int) -> None:
        self._layer = layer
        self._window = ops.windows_of(config)[layer]
        self._head_dim = config.head_dim
        self._team = weights.ranks.tensor
        queries, keys = (
            heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads)
        )
        own_heads = self._team.share(config.num_heads), weights.ranks.kv_heads(config)
        own_queries, own_keys = (_rows(heads, config.head_dim) for heads in own_heads)
        num_queries, num_keys = (heads.stop - heads.start for heads in own_heads)
        self._num_heads = [num_queries, num_keys, num_keys]
        self._qkv = Linear(
            weights,
            {"q_proj": queries, "k_proj": keys, "v_proj": keys},
            config.hidden_size,
            outputs={"q_proj": own_queries, "k_proj": own_keys, "v_proj": own_keys},
        )
        self._hidden, self._queries = config.hidden_size, queries
        own_outputs = {"o_proj": self._team.share(config.hidden_size)}
        self._output = Linear(weights, {"o_proj": config.hidden_size}, queries, own_outputs)
        self._head_norms = [
            RMSNorm(weights.at(name), config.head_dim, config.rms_norm_epsilon)
            for name in ("q_norm", "k_norm")
            if weights.has(f"{name}.weight")
        ]

    def __call__(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache, plan: ops.AttentionPlan
    ) -> Tensor:
        """x: (T, hidden) → (T, hidden); writes this step's keys and values into the cache."""
        heads = self._qkv(x).view(len(x), -1, self._head_dim)  # (T, H + 2K, D)
        query, key, value = torch.split(heads, self._num_heads, dim=1)
        for part, norm in zip((query, key), self._head_norms, strict=False):
            part.copy_(norm(part.reshape(-1, self._head_dim)).view(part.shape))
        ops.rotate(heads[:, : -self._num_heads[2]], *rotary)  # queries and keys
        layer_cache = cache.layers[self._layer]
        ops.append_kv(key, value, layer_cache, plan.slots)
        attended = ops.paged_attention(query, layer_cache, plan, self._window)
        whole = self._team.gather_columns(attended.flatten(1), self._queries)
        return self._team.gather_columns(self._output(whole), self._hidden)


def _rows(heads: slice, head_dim: int) -> slice:
    return slice(heads.start * head_dim, heads.stop * head_dim)
