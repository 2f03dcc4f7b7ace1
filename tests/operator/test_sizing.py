"""How memory is divided: worked examples, and properties that hold for every model."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_operator.auto_layout import choose
from openinference_operator.sizing import (
    USABLE_PERCENT,
    WORKSPACE_BYTES,
    gpu_memories,
    human,
    measure,
)
from openinference_operator.sizing import (
    size as size_layout,
)
from openinference_operator.spec import parse

H100 = 80 << 30
LLAMA_8B = {
    "parameters": 8_030_261_248,
    "weightBytes": 16_060_522_496,
    "numLayers": 32,
    "numKvHeads": 8,
    "headDim": 128,
    "maxPositions": 8192,
}
LLAMA_70B = {
    "parameters": 70_553_706_496,
    "weightBytes": 141_107_412_992,
    "numLayers": 80,
    "numKvHeads": 8,
    "headDim": 128,
    "maxPositions": 8192,
}


def size(service, summary, memories):
    """As the operator does: in the layout that the service gets."""
    return size_layout(service, choose(service, summary, memories).layout, summary, memories)


def service_with(gpus=0, memory=None, pool=None, **engine):
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    limits |= {"memory": memory} if memory else {}
    spec = {
        "model": {"uri": "hf://team/model"},
        "resources": {"limits": limits},
        "engine": engine,
        "parallelism": {"auto": gpus > 1},
        "podTemplate": {"nodeSelector": {"pool": pool} if pool else {}},
    }
    return parse({"metadata": {"name": "demo"}, "spec": spec})


def test_a_model_of_8_billion_on_one_h100():
    """128 KiB of keys and values per token: 1 GiB per sequence of 8192."""
    sizing = size(service_with(gpus=1), LLAMA_8B, [H100])
    kv = H100 * 92 // 100 - WORKSPACE_BYTES - 16_060_522_496
    assert (sizing.gpus, sizing.weights_per_gpu) == (1, 16_060_522_496)
    assert sizing.kv_per_gpu == kv
    assert sizing.max_concurrency == kv // (8192 * 131_072) == 57
    assert sizing.problem == ""


def test_what_cannot_fit_is_told_with_the_arithmetic_and_what_would():
    sizing = size(service_with(gpus=1), LLAMA_70B, [H100])
    assert sizing.problem == (
        "the GPU of a replica needs 158.0 GB: 141.1 GB of weights, 2.7 GB of keys and values for"
        " one sequence of 8192 tokens, 1.6 GB to work in, and 8 % that cannot be used. The largest"
        " GPU of a node that fits has 85.9 GB. What would fit: GPUs of 158.0 GB"
    )
    assert size(service_with(gpus=2), LLAMA_70B, [H100]).problem == ""


def test_a_long_context_may_be_what_does_not_fit():
    small = LLAMA_8B | {"maxPositions": 1_000_000}
    problem = size(service_with(gpus=1), small, [H100]).problem
    tokens = int(problem.rpartition("engine.maxModelLen: ")[2])
    assert size(service_with(gpus=1, maxModelLen=tokens), small, [H100]).problem == ""
    assert size(service_with(gpus=1, maxModelLen=tokens * 11 // 10), small, [H100]).problem


def test_without_known_memory_nothing_is_impossible():
    sizing = size(service_with(gpus=1), LLAMA_70B, [])
    assert (sizing.kv_per_gpu, sizing.max_concurrency, sizing.problem) == (None, None, "")


def test_room_is_told_for_the_smallest_gpu_and_impossible_judged_by_the_largest():
    sizing = size(service_with(gpus=1), LLAMA_8B, [10 << 30, H100])
    assert (sizing.kv_per_gpu, sizing.max_concurrency, sizing.problem) == (0, 0, "")


def test_a_type_that_weights_are_kept_in_counts():
    assert size(service_with(gpus=1, dtype="float32"), LLAMA_8B, []).weights_per_gpu == (
        4 * 8_030_261_248
    )


@pytest.mark.parametrize(
    ("dtype", "head_bytes"), [(name, of.head_bytes(128)) for name, of in CPU_FORMATS.items()]
)
def test_a_cache_of_fewer_bits_holds_more_sequences(dtype, head_bytes):
    """By the bytes that the engine itself allocates."""
    tiny = LLAMA_8B | {"weightBytes": 100_000_000}
    sizing = size(service_with(memory="40Gi", kvCacheDtype=dtype), tiny, [])
    assert sizing.max_concurrency == (40 << 30) // 10 // (8192 * 32 * 8 * head_bytes)


def test_a_replica_without_gpus_is_sized_by_its_memory_limit():
    tiny = LLAMA_8B | {"weightBytes": 100_000_000}
    sizing = size(service_with(memory="40Gi"), tiny, [])
    assert sizing.kv_per_gpu == (40 << 30) // 10
    assert sizing.max_concurrency == (40 << 30) // 10 // (8192 * 262_144)
    problem = size(service_with(memory="2Gi"), tiny, []).problem
    assert "resources.limits.memory is 2.1 GB. What would fit: a limit above 2.2 GB" in problem


def node(memory_mib=None, gpus="8", **labels):
    found = {"nvidia.com/gpu.memory": str(memory_mib)} if memory_mib else {}
    return {
        "metadata": {"labels": found | labels},
        "status": {"allocatable": {"nvidia.com/gpu": gpus}},
    }


def test_only_nodes_that_could_hold_a_replica_count():
    nodes = [
        node(81_559, pool="a"),
        node(40_960, pool="a"),
        node(24_576, pool="b"),
        node(24_576, gpus="2", pool="a"),
        node(None, pool="a"),
    ]
    assert gpu_memories(service_with(gpus=4, pool="a"), nodes) == (40_960 << 20, 81_559 << 20)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (4_800_000_000, "4.8 GB")],
)
def test_bytes_are_told_as_people_write_them(count, text):
    assert human(count) == text


@given(
    gpus=st.sampled_from([1, 2, 3, 4, 8]),
    memory=st.integers(4 << 30, 200 << 30),
    layers=st.integers(1, 120),
    heads=st.sampled_from([1, 2, 8, 32]),
    weights=st.integers(1 << 20, 400 << 30),
    tokens=st.integers(16, 131_072),
)
def test_what_is_planned_fits_and_only_what_fits_is_planned(
    gpus, memory, layers, heads, weights, tokens
):
    summary = {
        "parameters": weights // 2,
        "weightBytes": weights,
        "numLayers": layers,
        "numKvHeads": heads,
        "headDim": 128,
        "maxPositions": tokens,
    }
    service = service_with(gpus=gpus)
    sizing, demand = size(service, summary, [memory]), measure(service, summary)
    layout = choose(service, summary, [memory]).layout
    assume(layers >= layout.pipeline)
    used = sizing.weights_per_gpu + sizing.max_concurrency * demand.sequence_per_rank(layout)
    room = memory * USABLE_PERCENT // 100 - WORKSPACE_BYTES
    assert (sizing.max_concurrency >= 1) == (sizing.problem == "")
    assert sizing.problem or used <= room
