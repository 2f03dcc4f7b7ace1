"""What the operator plans for each rank, beside what the engine reads and allocates there."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.kv_formats import FLOAT32
from openinference_engine.models.registry import build_model
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.ranks.cuda_part import shared_layout
from openinference_engine.ranks.layout import layers_of, place_of
from openinference_engine.ranks.pipeline_plan import bytes_of_lanes
from openinference_engine.ranks.team import Ranks, Team
from openinference_engine.weights.checkpoint import (
    ALL,
    Checkpoint,
    StoredMatrix,
    StoredTensor,
    open_checkpoint,
)
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.summary import summarise
from openinference_operator.demand import measure
from openinference_operator.layout import Layout, split_layers
from openinference_operator.spec import parse

SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "num_hidden_layers": 5,
}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama of few key heads": {"num_key_value_heads": 2},
    "Qwen2": {"tie_word_embeddings": True},
    "Mixtral": EXPERTS,
}
LAYOUTS = (
    Layout(),
    Layout(pipeline=2, pods=2),
    Layout(tensor=3),
    Layout(pipeline=3, tensor=2, pods=3),
    Layout(pipeline=2, tensor=6, pods=2),
)
CASES = [*product(FAMILIES, LAYOUTS), ("Mixtral", Layout(tensor=2, expert=3))]
# Norms, biases and the choice of experts are whole in every rank, and not planned as such.
WHOLE_IN_EVERY_RANK = 0.03
SERVICE = parse({"metadata": {"name": "demo"}, "spec": {"model": {"uri": "hf://team/model"}}})


class CountedCheckpoint:
    """A checkpoint that counts the bytes that are read of it."""

    def __init__(self, whole: Checkpoint) -> None:
        self._whole = whole
        self.config, self.fingerprint = whole.config, whole.fingerprint
        self.num_bytes = 0

    def names(self) -> frozenset[str]:
        return self._whole.names()

    def tensors(self) -> Iterable[StoredTensor]:
        return self._whole.tensors()

    def array(self, name: str, rows: slice = ALL) -> Any:
        found = self._whole.array(name, rows)
        self.num_bytes += found.nbytes
        return found

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        found = self._whole.stored(name, rows)
        self.num_bytes += found.rows.nbytes
        return found


def ranks_of(group: GroupConfig) -> list[Ranks]:
    """Each rank's view of a group, without the processes."""
    places = [place_of(rank, group) for rank in range(group.num_ranks)]
    return [
        Ranks(
            group,
            place.rank,
            Team(place.tensor, group.tensor),
            Team(place.expert * group.tensor + place.tensor, group.expert * group.tensor),
        )
        for place in places
    ]


def bytes_read(path: Path, ranks: Ranks) -> int:
    checkpoint = CountedCheckpoint(open_checkpoint(path))
    weights = Weights(checkpoint, torch.float32, keeps_format=True, ranks=ranks)
    build_model(weights, checkpoint.config, 64)
    return checkpoint.num_bytes


@pytest.mark.parametrize(("family", "layout"), CASES, ids=str)
def test_fullest_rank_of_each_stage_holds_what_is_planned(
    make_tiny_model: Callable[..., Path], family: str, layout: Layout
) -> None:
    path = make_tiny_model(family.split()[0], **(SHAPE | FAMILIES[family]))
    model, summary = open_checkpoint(path).config, msgspec.to_builtins(summarise(path))
    demand = measure(SERVICE, summary)
    group = GroupConfig(layout.pipeline, layout.tensor, layout.expert)
    for stage, planned in enumerate(demand.loads(layout)):
        ranks = [each for each in ranks_of(group) if each.place.stage == stage]
        read = max(bytes_read(path, each) for each in ranks)
        assert planned.weights == pytest.approx(read, rel=WHOLE_IN_EVERY_RANK)
        heads = max(part.stop - part.start for part in (each.kv_heads(model) for each in ranks))
        token = len(ranks[0].layers(model)) * heads * FLOAT32.head_bytes(model.head_dim)
        assert planned.sequence == model.max_positions * token


@pytest.mark.parametrize("family", ["Llama", "Mixtral"])
def test_words_of_codes_are_counted_as_the_weights_they_hold(
    make_tiny_model: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """Else a mixture had more experts than weights, and its ranks held less than nothing."""
    path = make_tiny_model(family, **(SHAPE | FAMILIES[family]))
    quantise_folder(path, tmp_path / "codes", replace(SCHEMES["int4"], group_size=32))
    plain, coded = summarise(path), summarise(tmp_path / "codes")
    assert coded.parameters == pytest.approx(plain.parameters, rel=WHOLE_IN_EVERY_RANK)
    for layout in (Layout(tensor=3), Layout(expert=3)) if coded.num_experts else (Layout(),):
        [load] = measure(SERVICE, msgspec.to_builtins(coded)).loads(layout)
        assert coded.weight_bytes / 4 < load.weights <= coded.weight_bytes


@given(
    tensor=st.sampled_from([1, 2, 4]), expert=st.sampled_from([1, 2]), seats=st.integers(1, 2000)
)
def test_operator_counts_what_ranks_on_gpus_write_to_each_other(
    tensor: int, expert: int, seats: int
) -> None:
    """As the engine plans it, which allocates so much before the cache."""
    ranks = tensor * expert
    model, limits = model_of(2, 100, 32_001), {"limits": {"nvidia.com/gpu": str(ranks)}}
    spec = {"model": {"uri": "hf://a/b"}, "resources": limits, "engine": {"maxSequences": seats}}
    service = parse({"metadata": {"name": "demo"}, "spec": spec})
    group = GroupConfig(tensor=tensor, expert=expert)
    config = EngineConfig("", max_sequences=seats, group=group)
    counted = measure(service, summary_of(model)).exchange(Layout(1, tensor, expert))
    allocated = shared_layout(model, config).num_bytes if ranks > 1 else 0
    assert counted == pytest.approx(allocated, abs=64)  # beside the state and alignment


@given(
    pods=st.sampled_from([1, 2, 4]),
    stages_of_pod=st.integers(1, 3),
    tensor=st.sampled_from([1, 2]),
    seats=st.integers(1, 2000),
    vocabulary=st.integers(1, 64_000),
)
def test_operator_counts_what_stages_on_gpus_have_for_their_lanes(
    pods: int, stages_of_pod: int, tensor: int, seats: int, vocabulary: int
) -> None:
    """And, where several share a stage, for each other: logits in any, though the last alone has
    them; and for what goes to another pod."""
    stages = max(2, pods * stages_of_pod)
    gpus = {"nvidia.com/gpu": str(stages * tensor // pods)}
    model, limits = model_of(8, 100, vocabulary), {"limits": gpus}
    spec = {"model": {"uri": "hf://a/b"}, "resources": limits, "engine": {"maxSequences": seats}}
    service = parse({"metadata": {"name": "demo"}, "spec": spec})
    group = GroupConfig(pipeline=stages, tensor=tensor, pods=pods, rendezvous="pod-0:8001")
    config = EngineConfig("", max_sequences=seats, group=group)
    counted = measure(service, summary_of(model)).exchange(Layout(stages, tensor, pods=pods))
    planned = max(bytes_of_lanes(model, config, stage) for stage in range(stages))
    logits = 4 * MAX_ROWS * vocabulary if tensor > 1 else 0
    # Beside rules, biases and words of the choice, which are of a size whatever the model.
    beside = stages * MAX_ROWS * 4 * 700
    assert planned - beside <= counted <= planned + logits + beside


@given(
    num_layers=st.integers(1, 100),
    stages=st.integers(1, 100),
    inner=st.integers(1, 1000),
    vocabulary=st.integers(1, 200_000),
)
def test_operator_splits_layers_as_the_engine_does(
    num_layers: int, stages: int, inner: int, vocabulary: int
) -> None:
    """And each stage is as cheap as can be: what the dearest costs, no other split undercuts."""
    stages = min(stages, num_layers)
    model = model_of(num_layers, inner, vocabulary)
    layer, head = model.layer_weights_per_token, model.vocab_size * model.hidden_size
    layers = layers_of(model, stages)
    split = [len(each) for each in layers]
    assert [each.start for each in layers] == [sum(split[:stage]) for stage in range(stages)]
    assert split == split_layers(num_layers, stages, layer, head)
    assert sum(split) == num_layers
    assert min(split) >= 1
    dearest = max(*(size * layer for size in split), split[-1] * layer + head)
    assert dearest == least_cost(num_layers, stages, layer, head)


def summary_of(model: ModelConfig) -> dict[str, int]:
    """What the operator reads of a model for this."""
    return {
        **{"parameters": 10**9, "weightBytes": 10**9, "maxPositions": model.max_positions},
        **{"numLayers": model.num_layers, "numKvHeads": model.num_kv_heads},
        **{"headDim": model.head_dim, "hiddenSize": model.hidden_size},
        "vocabSize": model.vocab_size,
    }


def least_cost(num_layers: int, stages: int, layer: int, head: int) -> int:
    """By trying every size of the last stage, and the largest of the others there can be."""
    if stages == 1:
        return num_layers * layer + head
    return min(
        max(largest * layer, last * layer + head)
        for last in range(1, num_layers - stages + 2)
        for largest in range(1, num_layers + 1)
        if stages - 1 <= num_layers - last <= largest * (stages - 1)
    )


def model_of(num_layers: int, inner: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=inner,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_positions=64,
        rms_norm_epsilon=1e-5,
        rope_theta=10_000.0,
    )
