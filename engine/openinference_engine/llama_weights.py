"""The Llama family's weights as the CUDA kernels read them: merged, packed, on the device.

Reads the tensors of a checkpoint by name, one layer at a time, and knows each matrix's order of
rows when packed. What the kernels cannot do is refused here, before anything large is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import get_args

import torch
from torch import Tensor

from openinference_engine import fp8, int4, tiles
from openinference_engine.config import ModelConfig, WeightFormat
from openinference_engine.errors import StartError
from openinference_engine.layers.rotary import Rotary
from openinference_engine.weights.loader import Weights

WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Norms in bfloat16; matrices in bfloat16, (outputs, inputs), or packed (`packed`)."""

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """rotary: (positions, D / 2, 2) float32, cosine and sine. The embedding is in bfloat16."""

    embedding: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    head: Tensor
    rotary: Tensor

    @property
    def norms_after(self) -> list[Tensor]:
        """For each layer, the norm of what reads its output: the next layer or the head."""
        return [*(layer.attention_norm for layer in self.layers[1:]), self.norm]


def load_llama(
    weights: Weights,
    config: ModelConfig,
    num_positions: int,
    device: torch.device,
    weight_format: WeightFormat = "bfloat16",
) -> LlamaWeights:
    """Reads a checkpoint of the Llama family. Raises StartError for what the kernels cannot do."""
    check_supported(config, weight_format)
    model = weights.at("model")
    size = (config.vocab_size, config.hidden_size)
    embedding = model.tensor("embed_tokens.weight", size).to(device)
    head = embedding if config.ties_embeddings else weights.tensor("lm_head.weight", size)
    cosine_sine = Rotary(model, config, num_positions).at(torch.arange(num_positions))
    layers = (_load_layer(model.at(f"layers.{i}"), config) for i in range(config.num_layers))
    return LlamaWeights(
        embedding=embedding,
        layers=[packed(layer, config, weight_format, device) for layer in layers],
        norm=model.tensor("norm.weight", (config.hidden_size,)).to(device),
        head=packed_head(head.to(device), weight_format),
        rotary=torch.stack(cosine_sine, dim=-1).to(device),
    )


def packed(
    layer: LayerWeights, config: ModelConfig, weight_format: WeightFormat, device: torch.device
) -> LayerWeights:
    """The layer on the device, its matrices (bfloat16 so far) in the format that kernels read."""
    if weight_format == "bfloat16":
        return _mapped(layer, lambda name, tensor: tensor.to(device))
    orders = {
        "qkv": tiles.qkv_order(len(layer.qkv), config.head_dim),
        "output": tiles.plain_order(len(layer.output)),
        "gate_up": tiles.gate_up_order(len(layer.gate_up)),
        "down": tiles.plain_order(len(layer.down)),
    }

    def pack(name: str, tensor: Tensor) -> Tensor:
        if name not in orders:
            return tensor.to(device)
        tensor, order = tensor.to(device), orders[name].to(device)
        if weight_format == "fp8":
            return fp8.pack(*fp8.quantise(tensor), order)
        return int4.pack(*int4.quantise(tensor), order)

    return _mapped(layer, pack)


def packed_head(head: Tensor, weight_format: WeightFormat) -> Tensor:
    """The LM head as kernels read it.

    Beside layers of eight or four bits it is fp8: in bf16 it would be a tenth of an int4 step.
    """
    head = pad_rows(head)
    if weight_format == "bfloat16":
        return head
    return fp8.pack(*fp8.quantise(head), tiles.plain_order(len(head)).to(head.device))


def _mapped(layer: LayerWeights, change: Callable[[str, Tensor], Tensor]) -> LayerWeights:
    names = [field.name for field in fields(layer)]
    return LayerWeights(**{name: change(name, getattr(layer, name)) for name in names})


def pad_rows(matrix: Tensor) -> Tensor:
    """The matrix with zero rows up to whole tiles; the same tensor if there is nothing to add."""
    missing = -len(matrix) % tiles.TILE_ROWS
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


def _load_layer(weights: Weights, config: ModelConfig) -> LayerWeights:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = weights.at("self_attn"), weights.at("mlp")
    if attention.has("q_proj.bias"):
        raise StartError(
            "the checkpoint has attention biases, which the CUDA kernels do not add yet"
        )

    def stacked(part: Weights, sizes: dict[str, int], inputs: int) -> Tensor:
        rows = [part.tensor(f"{name}.weight", (size, inputs)) for name, size in sizes.items()]
        return torch.cat(rows)

    return LayerWeights(
        attention_norm=weights.tensor("input_layernorm.weight", (hidden,)),
        qkv=stacked(attention, {"q_proj": query, "k_proj": key, "v_proj": key}, hidden),
        output=stacked(attention, {"o_proj": hidden}, query),
        mlp_norm=weights.tensor("post_attention_layernorm.weight", (hidden,)),
        gate_up=stacked(mlp, {"gate_proj": inner, "up_proj": inner}, hidden),
        down=stacked(mlp, {"down_proj": hidden}, inner),
    )


def weight_bytes(config: ModelConfig, weight_format: WeightFormat, num_positions: int) -> int:
    """What the loaded weights take on the device."""
    table = config.vocab_size * config.hidden_size
    head = head_bytes(config, weight_format)
    if config.ties_embeddings and weight_format == "bfloat16":
        head = 0
    layers = config.num_layers * matrix_bytes(layer_elements(config), weight_format)
    return 2 * table + layers + head + 4 * num_positions * config.head_dim


def layer_elements(config: ModelConfig) -> int:
    """Elements of a layer's matrices."""
    attention = 2 * config.hidden_size * config.head_dim * (config.num_heads + config.num_kv_heads)
    return attention + 3 * config.hidden_size * config.intermediate_size


def matrix_bytes(elements: int, weight_format: WeightFormat) -> int:
    """In a layer: two bytes each, or eight or four bits and a two-byte scale for every 128."""
    bits = {"bfloat16": 16, "fp8": 8, "int4": 4}[weight_format]
    scale_bytes = 0 if weight_format == "bfloat16" else elements // 64
    return elements * bits // 8 + scale_bytes


def head_bytes(config: ModelConfig, weight_format: WeightFormat) -> int:
    head_format: WeightFormat = "bfloat16" if weight_format == "bfloat16" else "fp8"
    return matrix_bytes(config.vocab_size * config.hidden_size, head_format)


def check_supported(config: ModelConfig, weight_format: WeightFormat) -> None:
    """What every launcher would refuse later, said before the weights are read."""
    unknown = {
        "experts": config.experts is not None,
        "attention windows": any(window is not None for window in config.windows),
        f"{config.architecture}'s norms of queries and keys": config.architecture.startswith(
            "qwen3"
        ),
    }
    for name, is_there in unknown.items():
        if is_there:
            raise StartError(f"the CUDA kernels do not know {name} yet; use --device cpu")
    multiple = 32 if weight_format == "bfloat16" else tiles.GROUP_COLUMNS
    if config.head_dim not in (64, 128):
        raise StartError(f"head_dim {config.head_dim}: the CUDA kernels know 64 and 128")
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_heads × head_dim": config.num_heads * config.head_dim,
    }
    for name, width in widths.items():
        if width % multiple:
            raise StartError(
                f"{name} {width}: with {weight_format} weights the CUDA kernels need a multiple "
                f"of {multiple}"
            )
