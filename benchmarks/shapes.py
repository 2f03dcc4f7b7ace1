"""Shapes of known models, and seeded random weights of such a shape on a device.

Speed depends on the shape alone, so benchmarks need no download. Weights are scaled so that every
activation stays near one: overflowing data draws less power and flatters a GPU.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
import torch
from openinference_engine import tiles
from openinference_engine.config import ExpertsConfig, ModelConfig, WeightFormat
from openinference_engine.expert_weights import expert_orders
from openinference_engine.kv_formats import BFLOAT16, CacheFormat
from openinference_engine.llama_weights import (
    LayerWeights,
    LlamaWeights,
    packed_head,
    row_orders,
)
from openinference_engine.packings import PACKINGS, pack_matrix
from openinference_engine.weight_sizes import head_bytes, layer_bytes
from torch import Tensor


def _shape(
    layers: int,
    hidden: int,
    inner: int,
    heads: int,
    kv_heads: int,
    vocabulary: int = 32000,
    experts: ExpertsConfig | None = None,
) -> ModelConfig:
    return ModelConfig(
        architecture="llama", vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner,
        num_layers=layers, num_heads=heads, num_kv_heads=kv_heads, head_dim=128,
        max_positions=4096, rms_norm_epsilon=1e-5, rope_theta=10000.0,
        experts=experts,
    )  # fmt: skip


DENSE_SHAPES = {
    "llama-2-7b": _shape(32, 4096, 11008, 32, 32),
    "llama-2-13b": _shape(40, 5120, 13824, 40, 40),
    "llama-2-70b": _shape(80, 8192, 28672, 64, 8),
    "llama-3-8b": _shape(32, 4096, 14336, 32, 8, vocabulary=128256),
    "qwen3-8b": msgspec.structs.replace(
        _shape(36, 4096, 12288, 32, 8, vocabulary=151936), architecture="qwen3"
    ),
    "tiny": _shape(2, 256, 384, 2, 1, vocabulary=320),
}
SHAPES = DENSE_SHAPES | {
    "mixtral-8x7b": _shape(32, 4096, 14336, 32, 8, experts=ExpertsConfig(8, 2, 14336, True)),
    "qwen3-30b-a3b": msgspec.structs.replace(
        _shape(48, 2048, 6144, 32, 4, 151936, ExpertsConfig(128, 8, 768, True)),
        architecture="qwen3moe",
    ),
    "tiny-experts": _shape(2, 256, 384, 2, 1, 320, ExpertsConfig(5, 2, 128, True)),
}


def random_llama(
    config: ModelConfig,
    num_positions: int,
    device: torch.device,
    weight_format: WeightFormat = "bfloat16",
) -> LlamaWeights:
    generator = torch.Generator(device).manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        values = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
        return values.normal_(0, columns**-0.5, generator=generator)

    norm = torch.ones(config.hidden_size, dtype=torch.bfloat16, device=device)
    query = config.num_heads * config.head_dim
    qkv = query + 2 * config.num_kv_heads * config.head_dim
    hidden, experts = config.hidden_size, config.experts
    inner = config.intermediate_size if experts is None else experts.intermediate_size

    def matrices(rows: int, columns: int) -> Tensor:
        if experts is None:
            return matrix(rows, columns)
        return matrix(len(experts.own) * rows, columns).view(-1, rows, columns)

    def layer() -> LayerWeights:
        return LayerWeights(
            norm, matrix(qkv, hidden), matrix(hidden, query), norm,
            matrices(2 * inner, hidden), matrices(hidden, inner),
            head_norms=norm.new_ones(2, config.head_dim) if config.norms_heads else None,
            router=None if experts is None else tiles.pad_rows(matrix(experts.count, hidden)),
        )  # fmt: skip

    frequencies = config.rope_theta ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    angles = torch.arange(num_positions)[:, None] * frequencies
    return LlamaWeights(
        embedding=matrix(config.vocab_size, hidden),
        layers=[packed(layer(), config, weight_format) for _ in range(config.num_layers)],
        norm=norm,
        head=packed_head(matrix(config.vocab_size, hidden), weight_format),
        rotary=torch.stack([angles.cos(), angles.sin()], dim=-1).to(device),
    )


def step_bytes(
    config: ModelConfig,
    rows: int,
    context: int,
    weight_format: WeightFormat = "bfloat16",
    cache_format: CacheFormat = BFLOAT16,
) -> int:
    """What one decode step must read: every weight but the embedding, and the keys and values."""
    of_layer = layer_bytes(config, weight_format, visited_experts(config, rows))
    weights = config.num_layers * of_layer
    cache = rows * context * config.kv_bytes_per_token(cache_format)
    return weights + head_bytes(config, weight_format) + cache


def visited_experts(config: ModelConfig, rows: int) -> float | None:
    """Of a layer, by so many tokens to which each expert is as likely as the others."""
    if (experts := config.experts) is None:
        return None
    return experts.count * (1 - (1 - experts.per_token / experts.count) ** rows)


def packed(layer: LayerWeights, config: ModelConfig, weight_format: WeightFormat) -> LayerWeights:
    """The layer with its matrices, bfloat16 so far, in the format that kernels read."""
    if weight_format == "bfloat16":
        return layer
    orders = row_orders(config)
    if config.experts is not None and layer.router is not None:
        orders["gate_up"], orders["down"] = expert_orders(config.hidden_size, config.experts)
    matrices = {
        name: _packed(getattr(layer, name), weight_format, order) for name, order in orders.items()
    }
    return replace(layer, **matrices)


def _packed(matrix: Tensor, weight_format: WeightFormat, order: Tensor) -> Tensor:
    if matrix.dim() == 2:
        return pack_matrix(PACKINGS[weight_format], matrix, order)
    return torch.stack([_packed(of_expert, weight_format, order) for of_expert in matrix])
