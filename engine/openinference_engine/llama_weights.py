"""The Llama family's weights as the CUDA kernels read them: merged, packed, on the device.

Reads the tensors of a checkpoint by name, one layer at a time, and knows each matrix's order of
rows when packed. What the kernels cannot do is refused here, before anything large is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from openinference_engine import tiles
from openinference_engine.config import ModelConfig, WeightFormat
from openinference_engine.errors import StartError
from openinference_engine.expert_weights import (
    check_experts,
    load_experts,
)
from openinference_engine.layers.rotary import Rotary
from openinference_engine.packings import PACKINGS, pack_matrix
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import Upload, opened_upload

WEIGHT_FORMATS: tuple[WeightFormat, ...] = get_args(WeightFormat)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Norms in bfloat16; matrices in bfloat16, (outputs, inputs), or packed (`packed`).

    head_norms: (2, head_dim), of queries and of keys, where a model norms them. router: (experts in
    whole tiles, hidden) bfloat16, in a layer of experts, whose gate_up and down have an axis more.
    """

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor
    head_norms: Tensor | None = None
    router: Tensor | None = None


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


@dataclass(frozen=True, slots=True)
class Extent:
    """What a stage of a pipeline has of a model: so many layers from one on, and which tables."""

    first_layer: int = 0
    has_embedding: bool = True
    has_head: bool = True


WHOLE = Extent()


def load_llama(
    weights: Weights,
    config: ModelConfig,
    num_positions: int,
    device: torch.device,
    weight_format: WeightFormat = "bfloat16",
    extent: Extent = WHOLE,
) -> LlamaWeights:
    """Reads a checkpoint of the Llama family: `config.num_layers` of its layers.

    A table that `extent` leaves out has no rows. Raises StartError for what the kernels cannot do.
    """
    check_supported(config, weight_format)
    model = weights.at("model")
    with opened_upload(device) as upload:
        begun = (
            _begin_layer(model.at(f"layers.{index}"), config, weight_format, upload)
            for index in range(extent.first_layer, extent.first_layer + config.num_layers)
        )
        layers = list(upload.in_turn(begun))
        embedding, head = upload.in_turn(_begin_tables(weights, config, upload, extent))
        cosine_sine = Rotary(model, config, num_positions).at(torch.arange(num_positions))
        return LlamaWeights(
            embedding=embedding,
            layers=layers,
            norm=_vector(model, "norm", config.hidden_size, device),
            head=packed_head(head, weight_format) if extent.has_head else head,
            rotary=torch.stack(cosine_sine, dim=-1).to(device),
        )


def row_orders(config: ModelConfig) -> dict[str, Tensor]:
    """In which order (tiles.py) the rows of each packed matrix lie.

    Heads that are normed before they rotate are read whole, by a kernel of their own.
    """
    rows = config.head_dim * (config.num_heads + 2 * config.num_kv_heads)
    qkv = tiles.plain_order(rows) if config.norms_heads else tiles.qkv_order(rows, config.head_dim)
    return {
        "qkv": qkv,
        "output": tiles.plain_order(config.hidden_size),
        "gate_up": tiles.gate_up_order(2 * config.intermediate_size),
        "down": tiles.plain_order(config.hidden_size),
    }


def packed_head(head: Tensor, weight_format: WeightFormat) -> Tensor:
    """The LM head as kernels read it.

    Beside layers of eight or four bits it has eight: in bf16 it would be a tenth of an int4 step.
    """
    head = tiles.pad_rows(head)
    if weight_format == "bfloat16":
        return head
    packing = PACKINGS[head_format(weight_format)]
    return pack_matrix(packing, head, tiles.plain_order(len(head)))


def head_format(weight_format: WeightFormat) -> WeightFormat:
    return "fp8" if weight_format in ("int4", "int4-zero") else weight_format


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
    }
    experts = config.experts if mlp.has("gate.weight") else None
    if experts is None:
        stacks["gate_up"] = Stack(mlp, {"gate_proj": inner, "up_proj": inner}, hidden, upload)
        stacks["down"] = Stack(mlp, {"down_proj": hidden}, inner, upload)
    orders = row_orders(config)

    def finish() -> LayerWeights:
        norms = ("input_layernorm", "post_attention_layernorm")
        before, between = (_vector(weights, name, hidden, upload.device) for name in norms)
        matrices = {
            name: stack.packed(weight_format, orders[name]) for name, stack in stacks.items()
        }
        if config.norms_heads:
            matrices["head_norms"] = _head_norms(attention, config.head_dim, upload.device)
        if experts is not None:
            matrices |= load_experts(mlp, hidden, experts, weight_format, upload)
        return LayerWeights(attention_norm=before, mlp_norm=between, **matrices)

    return finish


def _head_norms(attention: Weights, head_dim: int, device: torch.device) -> Tensor:
    return torch.stack(
        [_vector(attention, name, head_dim, device) for name in ("q_norm", "k_norm")]
    )


def _begin_tables(
    weights: Weights, config: ModelConfig, upload: Upload, extent: Extent
) -> Iterator[Callable[[], Tensor]]:
    """The embedding, and this rank's rows of the head, which may be rows of the embedding."""
    rows, columns, team = config.vocab_size, config.hidden_size, weights.ranks.stage
    own = vocabulary_of(rows, team.size, team.index)

    def nothing() -> Tensor:
        return torch.empty(0, columns, dtype=torch.bfloat16, device=upload.device)

    def begin_embedding() -> Callable[[], Tensor]:
        return Stack(weights.at("model"), {"embed_tokens": rows}, columns, upload).dense

    embedding = begin_embedding() if extent.has_embedding else nothing
    yield embedding
    if not extent.has_head:
        yield nothing
    elif not config.ties_embeddings:
        yield Stack(weights, {"lm_head": own.stop - own.start}, columns, upload).dense
    else:
        table = embedding if extent.has_embedding else begin_embedding()
        yield lambda: table()[own]


def _vector(weights: Weights, name: str, size: int, device: torch.device) -> Tensor:
    return weights.tensor(f"{name}.weight", (size,)).to(device)


def column_multiple(weight_format: WeightFormat) -> int:
    """What a matrix's columns must be a multiple of for the kernels."""
    return 32 if weight_format == "bfloat16" else tiles.GROUP_COLUMNS


def check_supported(config: ModelConfig, weight_format: WeightFormat) -> None:
    """What every launcher would refuse later, said before the weights are read."""
    multiple = column_multiple(weight_format)
    if config.head_dim not in (64, 128):
        raise StartError(f"head_dim {config.head_dim}: the CUDA kernels know 64 and 128")
    widths = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_heads × head_dim": config.num_heads * config.head_dim,
    }
    if config.experts is not None:
        check_experts(config.experts)
        widths["the experts' intermediate_size"] = config.experts.intermediate_size
    for name, width in widths.items():
        if width % multiple:
            raise StartError(
                f"{name} {width}: with {weight_format} weights the CUDA kernels need a multiple "
                f"of {multiple}"
            )
