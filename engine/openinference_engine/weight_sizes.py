"""What weights take on a GPU, in bytes, before any of them is read."""

from __future__ import annotations

from openinference_engine.config import ModelConfig, WeightFormat
from openinference_engine.expert_weights import expert_elements, router_elements
from openinference_engine.llama_weights import WHOLE, Extent, head_format
from openinference_engine.packings import PACKINGS, UNIT_ELEMENTS


def weight_bytes(
    config: ModelConfig, weight_format: WeightFormat, num_positions: int, extent: Extent = WHOLE
) -> int:
    """What the loaded weights take on the device."""
    table = 2 * config.vocab_size * config.hidden_size if extent.has_embedding else 0
    head = head_bytes(config, weight_format) if extent.has_head else 0
    if table and config.ties_embeddings and weight_format == "bfloat16":
        head = 0
    layers = config.num_layers * layer_bytes(config, weight_format)
    return table + layers + head + 4 * num_positions * config.head_dim


def layer_bytes(
    config: ModelConfig, weight_format: WeightFormat, visited_experts: float | None = None
) -> int:
    """Of a layer's matrices; of the experts of a mixture, all or as many as are visited."""
    heads = config.num_heads + config.num_kv_heads
    attention = matrix_bytes(2 * config.hidden_size * config.head_dim * heads, weight_format)
    return attention + feed_forward_bytes(config, weight_format, visited_experts)


def feed_forward_bytes(
    config: ModelConfig, weight_format: WeightFormat, visited_experts: float | None = None
) -> int:
    """The part of it that comes behind attention."""
    hidden, experts = config.hidden_size, config.experts
    if experts is None:
        return matrix_bytes(3 * hidden * config.intermediate_size, weight_format)
    visited = len(experts.own) if visited_experts is None else visited_experts
    of_expert = matrix_bytes(expert_elements(hidden, experts), weight_format)
    router = matrix_bytes(router_elements(hidden, experts), "bfloat16")
    return router + int(visited * of_expert)


def matrix_bytes(elements: int, weight_format: WeightFormat) -> int:
    """In a layer: two bytes each, or the units of a packed format."""
    if weight_format == "bfloat16":
        return 2 * elements
    return elements // UNIT_ELEMENTS * PACKINGS[weight_format].UNIT_BYTES


def head_bytes(config: ModelConfig, weight_format: WeightFormat) -> int:
    return matrix_bytes(config.vocab_size * config.hidden_size, head_format(weight_format))
