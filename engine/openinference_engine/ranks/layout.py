"""Which part of a model each rank of a group has. Pure: sizes in, slices out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openinference_engine.config import GroupConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CacheFormat
from openinference_engine.tiles import TILE_ROWS


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands: tensor indices are neighbours, then experts, then stages."""

    rank: int
    stage: int
    expert: int
    tensor: int


def place_of(rank: int, group: GroupConfig) -> Place:
    outer, tensor = divmod(rank, group.tensor)
    stage, expert = divmod(outer, group.expert)
    return Place(rank, stage, expert, tensor)


def rank_at(stage: int, expert: int, tensor: int, group: GroupConfig) -> int:
    return (stage * group.expert + expert) * group.tensor + tensor


def share(size: int, count: int, index: int) -> slice:
    """Part `index` of `count`, as equal as can be."""
    return slice(size * index // count, size * (index + 1) // count)


def kv_heads_of(model: ModelConfig, count: int, index: int) -> slice:
    """The key heads that rank `index` of `count` needs for its query heads: fewer heads than ranks
    means that several ranks have the same one.
    """
    if model.num_kv_heads % count == 0:
        return share(model.num_kv_heads, count, index)
    head = index * model.num_kv_heads // count
    return slice(head, head + 1)


def vocabulary_of(size: int, count: int, index: int) -> slice:
    """Part `index` of `count` of a GPU's head: whole tiles of rows, but for the last."""
    part = share(-(-size // TILE_ROWS), count, index)
    return slice(part.start * TILE_ROWS, min(part.stop * TILE_ROWS, size))


def layers_of(model: ModelConfig, stages: int) -> list[range]:
    """The layers of each stage: the split whose dearest stage is cheapest, at least one each.

    What a stage costs is what a token is multiplied by, the head of the last included. The operator
    plans memory by the same rule (openinference_operator.layout.split_layers).
    """
    layers, others = model.num_layers, stages - 1
    if not others:
        return [range(layers)]
    layer, head = model.layer_weights_per_token, model.vocab_size * model.hidden_size

    def dearest(last: int) -> int:
        return max(-(-(layers - last) // others) * layer, last * layer + head)

    last = min(range(layers - others, 0, -1), key=dearest)
    parts = [share(layers - last, others, index) for index in range(others)]
    return [*(range(part.start, part.stop) for part in parts), range(layers - last, layers)]


def check_fits(model: ModelConfig, group: GroupConfig) -> None:
    """Raises StartError for sizes that the model cannot be divided by, with those that it can."""
    if group.pipeline > model.num_layers:
        raise StartError(
            f"--pipeline {group.pipeline} is more than the {model.num_layers} layers of the model; "
            f"use 1 to {model.num_layers}"
        )
    heads, kv_heads = model.num_heads, model.num_kv_heads
    if group.tensor not in (sizes := tensor_sizes(heads, kv_heads)):
        raise StartError(
            f"--tensor {group.tensor} does not divide the {heads} query heads and {kv_heads} key "
            f"heads of the model; use {listed(sizes)}"
        )
    experts = model.experts.count if model.experts else 1
    if experts % group.expert:
        has = f"the {experts} experts of the model" if model.experts else "a model without experts"
        raise StartError(
            f"--expert {group.expert} does not divide {has}; use {listed(divisors(experts))}"
        )


def tensor_sizes(heads: int, kv_heads: int) -> list[int]:
    """Divisors of the query heads that split the key heads evenly, or repeat them evenly."""
    return [size for size in divisors(heads) if kv_heads % size == 0 or size % kv_heads == 0]


def kv_bytes_per_token(model: ModelConfig, group: GroupConfig, cache_format: CacheFormat) -> int:
    """What a position takes in the cache of the pod that holds most."""
    layers = layers_of(model, group.pipeline)
    heads = [kv_heads_of(model, group.tensor, index) for index in range(group.tensor)]

    def rank_bytes(rank: int) -> int:
        place = place_of(rank, group)
        own = heads[place.tensor]
        num_heads: int = len(layers[place.stage]) * (own.stop - own.start)
        return num_heads * cache_format.head_bytes(model.head_dim)

    return max(sum(map(rank_bytes, group.ranks_of(pod))) for pod in range(group.pods))


def divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def listed(numbers: Iterable[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
