"""How memory is divided: worked examples."""

import pytest
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_operator.auto_layout import choose
from openinference_operator.sizing import (
    WORKSPACE_BYTES,
    human,
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
    return size_layout(service, choose(service, summary).layout, summary, memories)


def service_with(gpus=0, memory=None, pool=None, sizes=None, **engine):
    limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    limits |= {"memory": memory} if memory else {}
    spec = {
        "model": {"uri": "hf://team/model"},
        "resources": {"limits": limits},
        "engine": engine,
        "parallelism": sizes or {"auto": gpus > 1},
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


@pytest.mark.parametrize(
    ("stored_as", "num_bytes"),
    [("Q4_1", 16_060_522_496), ("F32", 16_060_522_496), ("I32", 5 << 30)],
)
def test_gpus_keep_codes_of_safetensors_and_make_bfloat16_of_all_else(stored_as, num_bytes):
    model = LLAMA_8B | {"weightBytes": 5 << 30, "storedAs": stored_as}
    assert size(service_with(gpus=1), model, [H100]).weights_per_gpu == num_bytes
    assert size(service_with(memory="64Gi"), model, []).weights_per_gpu == 5 << 30


def test_codes_in_groups_that_no_kernel_takes_become_bfloat16_on_gpus():
    """They were counted as stored, so that a model seemed to fit that ended the engine."""
    model = LLAMA_8B | {"weightBytes": 5 << 30, "storedAs": "I32", "gpuFormat": "bfloat16"}
    assert size(service_with(gpus=1), model, [H100]).weights_per_gpu == 16_060_522_496


def test_what_cannot_fit_is_told_with_the_arithmetic_and_what_would():
    sizing = size(service_with(gpus=1), LLAMA_70B, [H100])
    assert sizing.problem == (
        "the GPU of a replica needs 158.0 GB: 141.1 GB of weights, 2.7 GB of keys and values for"
        " one sequence of 8192 tokens, 1.6 GB to work in, and 8 % that cannot be used. The largest"
        " GPU of a node that fits has 85.9 GB. What would fit: GPUs of 158.0 GB, or"
        " parallelism.pipeline: 2 in 2 pods"
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


def test_a_gpu_embeds_in_bfloat16_however_the_embedding_is_stored():
    """SmolLM2 with a vocabulary of eight bits."""
    table = 49_152 * 576
    model = LLAMA_8B | {"vocabSize": 49_152, "hiddenSize": 576, "embeddingBytes": table * 17 // 16}
    more = size(service_with(gpus=1), model, [H100]).weights_per_gpu - model["weightBytes"]
    assert more == 2 * table - table * 17 // 16


def test_a_type_that_weights_are_kept_in_counts():
    service = service_with(memory="64Gi", dtype="float32")
    assert size(service, LLAMA_8B, []).weights_per_gpu == 4 * 8_030_261_248
    coded = LLAMA_8B | {"weightBytes": 5 << 30, "storedAs": "I32"}  # which a GPU keeps
    assert size(service_with(gpus=1, dtype="bfloat16"), coded, []).weights_per_gpu == 5 << 30


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


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (98_362_432, "98.4 MB"), (4_800_000_000, "4.8 GB")],
)
def test_bytes_are_told_as_people_write_them(count, text):
    assert human(count) == text


def test_the_fullest_of_several_gpus_is_sized_embedding_and_head_included():
    """Two stages of Llama 70B: the second has fewer layers, and the head."""
    tables = 128_256 * 8192 * 2
    model = LLAMA_70B | {
        **{"hiddenSize": 8192, "vocabSize": 128_256, "embeddingBytes": tables},
        **{"headBytes": tables, "layerWeightsPerToken": 855_638_016, "numHeads": 64},
    }
    service = service_with(gpus=2, sizes={"pipeline": 2})
    sizing = size(service, model, [H100])
    first = 41 * (141_107_412_992 - 2 * tables) // 80 + tables
    assert (sizing.pods, sizing.gpus_per_pod, sizing.gpus) == (1, 2, 2)
    assert sizing.weights_per_gpu == pytest.approx(first, abs=2)
    exchange = 2 * 128 * 128_256 * 4 + 128 * (8192 + 512) * 4  # logits of two lanes, inputs of one
    room = H100 * 92 // 100 - WORKSPACE_BYTES - exchange
    assert sizing.kv_per_gpu == room - sizing.weights_per_gpu
    assert sizing.max_concurrency == sizing.kv_per_gpu // (8192 * 41 * 4096)
    problem = size(service, model, [64 << 30]).problem
    assert problem.startswith(
        "the fullest of the 2 GPUs of a replica needs 81.9 GB: 72.3 GB of 141.1 GB of weights, 1.4"
        " GB of keys and values for one sequence of 8192 tokens"
    )


def test_codes_on_gpus_leave_room_for_a_layer_in_bfloat16():
    """Each rank's heads of it: what prompts read."""
    for gpus, sizes, heads in ((1, None, 8), (2, {"tensor": 2}, 4), (2, {"expert": 2}, 4)):
        rooms = [
            sizing.kv_per_gpu + sizing.weights_per_gpu
            for dtype in ("auto", "int8-int4")
            for service in [service_with(gpus=gpus, sizes=sizes, kvCacheDtype=dtype)]
            for sizing in [size(service, LLAMA_8B, [H100])]
        ]
        assert rooms[0] - rooms[1] == 8192 * heads * 128 * 4


def test_codes_of_activations_that_do_not_fit_are_a_misfit_on_gpus():
    service = service_with(gpus=1, activations="int8")
    assert not size(service, LLAMA_8B | {"storedAs": "I8"}, [H100]).is_misfit
    sizing = size(service, LLAMA_8B | {"storedAs": "BF16"}, [H100])
    assert sizing.reason == "ActivationsMisfit"
    assert "engine.activations int8 is for weights that a GPU reads as int8" in sizing.problem


def test_pods_without_gpus_are_advised_as_many_stages_as_fit():
    """A limit that one pod breaks and three keep."""
    problem = size(service_with(memory="60Gi"), LLAMA_70B, []).problem
    stages = int(problem.rpartition("or parallelism.pipeline: ")[2])
    assert stages == 3
    for pipeline, fits in ((stages, True), (stages - 1, False)):
        service = service_with(memory="60Gi", sizes={"pipeline": pipeline})
        assert (size(service, LLAMA_70B, []).problem == "") == fits
