"""What the size of a model is made of: enough to plan memory without reading its weights.

A summary is read from headers alone. The operator and `openinference plan` do arithmetic on it, so
it is small, JSON, and knows nothing of how the engine lays anything out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from openinference_engine.config import ModelConfig, WeightFormat
from openinference_engine.weights.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from openinference_engine.weights.coded_checkpoint import CodedCheckpoint
from openinference_engine.weights.kernel_formats import GROUP_COLUMNS, stored_format

_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"


class Summary(msgspec.Struct, frozen=True, rename="camel"):
    """The shape of a model. `weight_bytes`: as stored.

    `stored_as`: what most bytes of its layers are in, as the file calls it.
    `expert_parameters`: those that belong to single experts; without any, both are 0.
    `head_bytes`: 0 where the embedding is the head, too. `layer_weights_per_token`: how many of a
    layer's weights a token is multiplied by, which a layer costs. `gpu_format`: in which a GPU
    reads most of its matrices by default; empty where that is not known from headers.
    """

    architecture: str
    parameters: int
    weight_bytes: int
    stored_as: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_positions: int
    num_experts: int
    expert_parameters: int
    embedding_bytes: int
    head_bytes: int
    layer_weights_per_token: int
    gpu_format: WeightFormat | Literal[""] = ""  # records of older engines do not tell


def summarise(path: Path, *, headers_alone: bool = False) -> Summary:
    """The summary of a checkpoint. Raises StartError if it cannot be read or lacks something.

    `headers_alone`: what is behind them is not there.
    """
    checkpoint = open_checkpoint(path)
    config, tensors = checkpoint.config, list(checkpoint.tensors())
    return Summary(
        architecture=config.architecture,
        parameters=_parameters(checkpoint, tensors),
        weight_bytes=sum(tensor.num_bytes for tensor in tensors),
        stored_as=_format_of_layers(tensors),
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
        num_experts=config.experts.count if config.experts else 0,
        expert_parameters=_expert_parameters(config),
        embedding_bytes=_bytes_of(tensors, _EMBEDDING),
        head_bytes=_bytes_of(tensors, _HEAD),
        layer_weights_per_token=config.layer_weights_per_token,
        gpu_format=_gpu_format(checkpoint, headers_alone),
    )


def _format_of_layers(tensors: Iterable[StoredTensor]) -> str:
    """Embedding and head, which are seldom codes, are most of a small model's bytes."""
    num_bytes: Counter[str] = Counter()
    for tensor in tensors:
        is_table = tensor.name.startswith((f"{_EMBEDDING}.", f"{_HEAD}."))
        num_bytes[tensor.format] += 0 if is_table else tensor.num_bytes
    return num_bytes.most_common(1)[0][0]


def _bytes_of(tensors: Iterable[StoredTensor], owner: str) -> int:
    """A quantised matrix has its codes and scales in several tensors."""
    return sum(each.num_bytes for each in tensors if each.name.startswith(f"{owner}."))


def _parameters(checkpoint: Checkpoint, tensors: Iterable[StoredTensor]) -> int:
    """Of all tensors; where words hold several codes, by the shape: without norms and biases."""
    if not isinstance(checkpoint, CodedCheckpoint):
        return sum(tensor.num_values for tensor in tensors)
    config = checkpoint.config
    tables = 1 if config.ties_embeddings else 2
    of_tables = tables * config.vocab_size * config.hidden_size
    of_layer = config.layer_weights_per_token
    if config.experts is not None:  # a token visits a few of them
        unvisited = config.experts.count - config.experts.per_token
        of_layer += 3 * unvisited * config.hidden_size * config.experts.intermediate_size
    return of_tables + config.num_layers * of_layer


def _gpu_format(checkpoint: Checkpoint, headers_alone: bool) -> WeightFormat | Literal[""]:
    """Of codes it depends on their zeros and the order of groups, too, which are no headers."""
    if not (headers_alone and isinstance(checkpoint, CodedCheckpoint)):
        return stored_format(checkpoint)
    return "bfloat16" if (checkpoint.group_size or 0) % GROUP_COLUMNS else ""


def _expert_parameters(config: ModelConfig) -> int:
    """Three matrices for each expert of each layer."""
    if config.experts is None:
        return 0
    matrices = 3 * config.experts.count * config.num_layers
    return matrices * config.hidden_size * config.experts.intermediate_size
