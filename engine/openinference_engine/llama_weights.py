"""The Llama family's weights as the CUDA kernels read them: merged, packed, on the device.

Reads the tensors of a checkpoint by name, one layer at a time, and knows each matrix's order of
rows when packed. What the kernels cannot do is refused here, before anything large is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from openinference_engine import tiles
from openinference_engine.config import ModelConfig, WeightFormat
from openinference_engine.errors import StartError
from openinference_engine.layers.rotary import Rotary
from openinference_engine.packings import PACKINGS, UNIT_ELEMENTS, pack_matrix
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import Upload, opened_upload

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
    with opened_upload(device) as upload:
        begun = (
            _begin_layer(model.at(f"layers.{index}"), config, weight_format, upload)
            for index in range(config.num_layers)
        )
        layers = list(upload.in_turn(begun))
        embedding, head = upload.in_turn(_begin_tables(weights, config, upload))
        cosine_sine = Rotary(model, config, num_positions).at(torch.arange(num_positions))
        return LlamaWeights(
            embedding=embedding,
            layers=layers,
            norm=_vector(model, "norm", config, device),
            head=packed_head(head, weight_format),
            rotary=torch.stack(cosine_sine, dim=-1).to(device),
        )


def packed(layer: LayerWeights, config: ModelConfig, weight_format: WeightFormat) -> LayerWeights:
    """The layer with its matrices, bfloat16 so far, in the format that kernels read."""
    if weight_format == "bfloat16":
        return layer
    matrices = {
        name: pack_matrix(PACKINGS[weight_format], getattr(layer, name), order)
        for name, order in row_orders(config).items()
    }
    return replace(layer, **matrices)


def row_orders(config: ModelConfig) -> dict[str, Tensor]:
    """In which order (tiles.py) the rows of each packed matrix lie."""
    rows = config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    return {
        "qkv": tiles.qkv_order(rows, config.head_dim),
        "output": tiles.plain_order(config.hidden_size),
        "gate_up": tiles.gate_up_order(2 * config.intermediate_size),
        "down": tiles.plain_order(config.hidden_size),
    }


def packed_head(head: Tensor, weight_format: WeightFormat) -> Tensor:
    """The LM head as kernels read it.

    Beside layers of eight or four bits it has eight: in bf16 it would be a tenth of an int4 step.
    """
    head = pad_rows(head)
    if weight_format == "bfloat16":
        return head
    packing = PACKINGS[head_format(weight_format)]
    return pack_matrix(packing, head, tiles.plain_order(len(head)))


def head_format(weight_format: WeightFormat) -> WeightFormat:
    return "fp8" if weight_format in ("int4", "int4-zero") else weight_format


def pad_rows(matrix: Tensor) -> Tensor:
    """The matrix with zero rows up to whole tiles; the same tensor if there is nothing to add."""
    missing = -len(matrix) % tiles.TILE_ROWS
    return torch.nn.functional.pad(matrix, (0, 0, 0, missing)) if missing else matrix


def _begin_layer(
    weights: Weights, config: ModelConfig, weight_format: WeightFormat, upload: Upload
) -> Callable[[], LayerWeights]:
    """Begins the copies of a layer; the function behind them packs what has arrived."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention, mlp = weights.at("self_attn"), weights.at("mlp")
    if attention.has("q_proj.bias"):
        raise StartError(
            "the checkpoint has attention biases, which the CUDA kernels do not add yet"
        )
    heads = {"q_proj": query, "k_proj": key, "v_proj": key}
    stacks = {
        "qkv": Stack(attention, heads, hidden, upload),
        "output": Stack(attention, {"o_proj": hidden}, query, upload),
        "gate_up": Stack(mlp, {"gate_proj": inner, "up_proj": inner}, hidden, upload),
        "down": Stack(mlp, {"down_proj": hidden}, inner, upload),
    }
    orders = row_orders(config)

    def finish() -> LayerWeights:
        norms = ("input_layernorm", "post_attention_layernorm")
        before, between = (_vector(weights, name, config, upload.device) for name in norms)
        matrices = {
            name: stack.packed(weight_format, orders[name]) for name, stack in stacks.items()
        }
        return LayerWeights(attention_norm=before, mlp_norm=between, **matrices)

    return finish


def _begin_tables(
    weights: Weights, config: ModelConfig, upload: Upload
) -> Iterator[Callable[[], Tensor]]:
    """The embedding, and this rank's rows of the head, which may be rows of the embedding."""
    rows, columns, team = config.vocab_size, config.hidden_size, weights.ranks.tensor
    own = vocabulary_of(rows, team.size, team.index)
    embedding = Stack(weights.at("model"), {"embed_tokens": rows}, columns, upload)
    yield embedding.dense
    if config.ties_embeddings:
        yield lambda: embedding.dense()[own]
    else:
        yield Stack(weights, {"lm_head": own.stop - own.start}, columns, upload).dense


def _vector(weights: Weights, name: str, config: ModelConfig, device: torch.device) -> Tensor:
    return weights.tensor(f"{name}.weight", (config.hidden_size,)).to(device)


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
    """In a layer: two bytes each, or the units of a packed format."""
    if weight_format == "bfloat16":
        return 2 * elements
    return elements // UNIT_ELEMENTS * PACKINGS[weight_format].UNIT_BYTES


def head_bytes(config: ModelConfig, weight_format: WeightFormat) -> int:
    return matrix_bytes(config.vocab_size * config.hidden_size, head_format(weight_format))


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
