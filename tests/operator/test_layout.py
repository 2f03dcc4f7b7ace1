"""The ranks of a replica: their pods, what a model can be divided by, and what is chosen."""

import pytest
from openinference_operator.auto_layout import choose
from openinference_operator.errors import SpecError
from openinference_operator.layout import (
    ONE_RANK,
    Layout,
    find_gpu_misfit,
    find_misfit,
    read_layout,
)
from openinference_operator.manifests import engine
from openinference_operator.sizing import size
from openinference_operator.spec import parse

GIB = 1 << 30
SMOLLM2 = {
    "parameters": 134_515_008,
    "weightBytes": 98_000_000,
    "numLayers": 30,
    "numHeads": 9,
    "numKvHeads": 3,
    "headDim": 64,
    "maxPositions": 8192,
    "numExperts": 0,
}
LLAMA_70B = {
    "parameters": 70_553_706_496,
    "weightBytes": 141_107_412_992,
    "numLayers": 80,
    "numHeads": 64,
    "numKvHeads": 8,
    "headDim": 128,
    "maxPositions": 8192,
}
MIXTRAL = LLAMA_70B | {
    "numLayers": 32,
    "numHeads": 32,
    "hiddenSize": 4096,
    "numExperts": 8,
    "expertParameters": 3 * 8 * 32 * 4096 * 14_336,
}
QWEN3_MOE = LLAMA_70B | {
    "numLayers": 48,
    "numHeads": 32,
    "numKvHeads": 4,
    "hiddenSize": 2048,
    "numExperts": 128,
    "expertParameters": 3 * 128 * 48 * 2048 * 768,
}


def service_with(gpus=0, memory=None, **parallelism):
    limits = ({"nvidia.com/gpu": gpus} if gpus else {}) | ({"memory": memory} if memory else {})
    spec = {"model": {"uri": "hf://a/b"}, "resources": {"limits": limits}}
    return parse({"metadata": {"name": "demo"}, "spec": spec | {"parallelism": parallelism}})


@pytest.mark.parametrize(
    ("gpus", "sizes", "pods"),
    [
        (0, {"pipeline": 2}, 2),
        (0, {"tensor": 3}, 1),
        (0, {"pipeline": 2, "tensor": 2}, 2),
        (1, {"pipeline": 4}, 4),
        (4, {"tensor": 4, "pipeline": 2}, 2),
        (8, {"tensor": 4, "expert": 2}, 1),
    ],
)
def test_a_pod_runs_a_rank_on_each_gpu_or_a_stage_without(gpus, sizes, pods):
    assert choose(service_with(gpus, **sizes), None).layout.pods == pods


def test_without_the_field_a_replica_is_one_rank():
    assert choose(service_with(gpus=8), LLAMA_70B).layout == ONE_RANK


def test_ranks_that_do_not_fill_pods_are_refused_with_the_numbers():
    with pytest.raises(SpecError, match="is 3 ranks, which do not fill pods of 2 GPUs; use a mul"):
        service_with(gpus=2, tensor=3)


def test_gpus_of_different_pods_do_not_share_a_stage():
    with pytest.raises(SpecError, match=r"tensor x expert is 4 GPUs .* use .*nvidia.com/gpu: 4 or"):
        service_with(gpus=2, tensor=2, expert=2)


def test_automatic_and_chosen_sizes_exclude_each_other():
    with pytest.raises(SpecError, match=r"spec.parallelism.auto: chooses all sizes; remove it"):
        service_with(auto=True, tensor=2)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(tensor=3), ""),
        (Layout(tensor=2), "tensor 2 does not divide the 9 query heads and 3 key heads of the"),
        (Layout(tensor=2), "use 1, 3 or 9"),
        (Layout(pipeline=31), "pipeline 31 is more than the 30 layers of the model; use 1 to 30"),
        (Layout(expert=2), "expert 2 does not divide a model without experts; use 1"),
    ],
)
def test_sizes_that_a_model_cannot_be_divided_by_are_told_with_those_that_it_can(layout, words):
    misfit = find_misfit(layout, SMOLLM2)
    assert words in misfit
    assert bool(words) == bool(misfit)


def test_experts_divide_too():
    assert "8 experts of the model; use 1, 2, 4 or 8" in find_misfit(
        Layout(expert=3), SMOLLM2 | {"numExperts": 8}
    )


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(tensor=8), ""),
        (Layout(pipeline=8), ""),
        (Layout(pipeline=2, tensor=8, pods=2), ""),
        (Layout(expert=8), ""),
        (Layout(tensor=4, expert=2), ""),
        (Layout(pipeline=2, tensor=2, expert=2), ""),
        (Layout(tensor=16), "tensor 16: more ranks than GPUs can be; use 1 to 8"),
        (Layout(tensor=8, expert=2), "tensor 8 and expert 2: more ranks than GPUs can be"),
        (Layout(expert=5), "expert 5: 5 GPUs do not divide the 64 query heads and 8 key heads"),
    ],
)
def test_what_gpus_do_not_do_yet_is_told_before_a_pod_is_made(layout, words):
    misfit = find_gpu_misfit(layout, LLAMA_70B | {"numExperts": 40})
    assert words in misfit
    assert bool(words) == bool(misfit)


@pytest.mark.parametrize(
    ("layout", "experts", "words"),
    [
        (Layout(tensor=2), 128, ""),
        (Layout(tensor=2, expert=2), 128, ""),
        (Layout(tensor=4), 128, "tensor 4 does not divide the 768 columns of an expert into multi"),
        (Layout(tensor=4), 128, "multiples of 128; use tensor 2 and expert 2"),
        (Layout(tensor=8), 128, "; use tensor 2 and expert 4"),
        (Layout(tensor=4), 7, "; use 1 or 2 GPUs in all"),
    ],
)
def test_experts_too_narrow_to_be_cut_are_told_with_how_they_can_be_shared(layout, experts, words):
    packed = QWEN3_MOE | {"storedAs": "I32", "numExperts": experts}
    packed["expertParameters"] = 3 * experts * 48 * 2048 * 768
    misfit = find_gpu_misfit(layout, packed)
    assert words in misfit
    assert bool(words) == bool(misfit)


def test_whole_experts_are_advised_where_no_part_of_them_is_wide_enough():
    narrow = MIXTRAL | {"storedAs": "I32", "expertParameters": 3 * 8 * 32 * 4096 * 640}
    assert "640 columns of an expert into multiples of 128; use expert 4" in find_gpu_misfit(
        Layout(tensor=2, expert=2), narrow
    )


@pytest.mark.parametrize(
    ("inner", "stored", "words"),
    [
        (11008, "BF16", ""),
        (
            11008,
            "I32",
            "4 GPUs do not divide the model's intermediate size (11008 columns)",
        ),
        (11008, "I32", "multiples of 128; use 1 or 2 in all"),
        (11072, "BF16", "into multiples of 32; use 1 or 2 in all"),
    ],
)
def test_gpus_take_parts_of_so_many_columns(inner, stored, words):
    """As the engine refuses it, which would be after the pods are made."""
    heads = {"numHeads": 32, "numKvHeads": 32, "headDim": 128}
    summary = LLAMA_70B | heads | {"intermediateSize": inner, "storedAs": stored}
    for experts in (0, 8):
        misfit = find_gpu_misfit(Layout(tensor=4), summary | {"numExperts": experts})
        assert words in misfit
        assert bool(words) == bool(misfit)


@pytest.mark.parametrize(
    ("of_model", "words"),
    [
        ({"intermediateSize": 11000}, "multiples of 32 columns, and the model has intermediate"),
        ({"hiddenSize": 576, "gpuFormat": "int4"}, "128 columns, and the model has hidden size (5"),
        ({"headDim": 96}, "heads of 64 or 128 columns, and the model's have 96; leave nvidia"),
        (MIXTRAL | {"expertParameters": 3 * 8 * 32 * 4096 * 100}, "has experts (100 columns);"),
    ],
)
@pytest.mark.parametrize("gpus", [1, 2])
def test_what_no_gpu_takes_is_not_advised_other_numbers_of_gpus(of_model, words, gpus):
    """The advice was one GPU, on which the engine ended."""
    assert words in find_gpu_misfit(Layout(tensor=gpus), LLAMA_70B | of_model)


@pytest.mark.parametrize(
    ("gpus", "summary", "layout", "words"),
    [
        (1, LLAMA_70B, Layout(), "a pod has one GPU; one pod, for the memory is not known"),
        (8, LLAMA_70B, Layout(tensor=8), "8 GPUs divide the 64 query and 8 key heads"),
        (6, LLAMA_70B, Layout(3, tensor=2), "3 stages, for parallelism.tensor 6 does not divide"),
        (3, LLAMA_70B, Layout(3), "3 stages, for parallelism.tensor 3 does not divide the 64"),
        (16, LLAMA_70B, Layout(2, tensor=8), "stages, for parallelism.tensor 16: more ranks than"),
        (2, LLAMA_70B | {"numExperts": 8}, Layout(tensor=2), "2 GPUs divide the 64 query"),
        (2, MIXTRAL, Layout(tensor=2), "tensor 2: 2 GPUs divide the 32 query and 8 key heads"),
        (2, QWEN3_MOE, Layout(tensor=2), "tensor 2: 2 GPUs divide the 32 query and 4 key heads"),
        (4, QWEN3_MOE, Layout(expert=4), "whole experts are faster than parts of 192 columns"),
        (12, QWEN3_MOE, Layout(3, expert=4), "expert 4: whole experts are faster"),
        (4, None, Layout(pipeline=4), "the heads of the model are not known"),
    ],
)
def test_gpus_of_a_pod_are_tensor_ranks_where_that_is_possible_and_stages_elsewhere(
    gpus, summary, layout, words
):
    service = service_with(gpus, auto=True)
    choice = choose(service, summary)
    assert choice.layout == layout
    assert words in choice.reason
    assert summary is None or not size(service, layout, summary, ()).is_misfit


def test_a_model_of_fewer_layers_than_stages_is_a_misfit_and_no_error():
    summary = SMOLLM2 | {"numLayers": 1, "numHeads": 1, "numKvHeads": 1}
    choice = choose(service_with(gpus=2, auto=True), summary)
    assert "pipeline 2 is more than the 1 layers" in find_misfit(choice.layout, summary)


@pytest.mark.parametrize(
    ("memory", "stages", "words"),
    [
        ("160Gi", 1, "one pod holds it: the fullest pod then needs"),
        ("60Gi", 3, "3 pods, the fewest that hold it"),
        ("1Gi", 1, "no number of pods holds the model: a pod needs"),
        (None, 1, "one pod, for the memory is not known"),
    ],
)
def test_without_gpus_the_memory_of_pods_decides(memory, stages, words):
    choice = choose(service_with(auto=True, memory=memory), LLAMA_70B)
    assert choice.layout == Layout(pipeline=stages, pods=stages)
    assert words in choice.reason


@pytest.mark.parametrize(
    ("gpus", "gibibytes", "layout", "words"),
    [
        (8, 80, Layout(tensor=8), "one pod holds it: the fullest GPU then needs 2"),
        (8, 16, Layout(2, tensor=8, pods=2), "2 pods, the fewest that hold it: the fullest GPU"),
        (1, 80, Layout(2, pods=2), "a pod has one GPU; 2 pods, the fewest that hold it"),
        (6, 24, Layout(6, tensor=2, pods=2), "3 stages, for parallelism.tensor 6 does not divide"),
        (1, 2, Layout(), "no number of pods holds the model: a GPU needs"),
    ],
)
def test_the_memory_of_gpus_decides_how_many_pods_there_are(gpus, gibibytes, layout, words):
    """Each as full of ranks as the first."""
    service, memories = service_with(gpus, auto=True), [gibibytes << 30, 1 << 30]
    choice = choose(service, LLAMA_70B, memories)
    assert choice.layout == layout
    assert words in choice.reason
    is_whole = "no number of pods" not in choice.reason
    assert is_whole == (not size(service, layout, LLAMA_70B, memories).problem)


def test_pods_are_as_many_as_the_smallest_gpus_need_that_can_hold_the_model():
    """A scheduler knows no memory of GPUs: a pod for which the largest was counted may get less."""
    service = service_with(8, auto=True)
    choice = choose(service, LLAMA_70B, [80 << 30, 16 << 30, 1 << 30])
    assert choice == choose(service, LLAMA_70B, [1 << 30, 16 << 30])
    assert choice.layout == Layout(2, tensor=8, pods=2)
    assert "of the 17.2 GB that the smallest has which can" in choice.reason


def test_a_revision_keeps_its_layout_and_older_ones_are_one_rank():
    layout = Layout(pipeline=2, tensor=3, pods=2)
    assert read_layout(layout.as_json()) == layout
    assert read_layout(None) == ONE_RANK


@pytest.mark.parametrize(
    ("gpus", "tensor", "flags"), [(0, 3, {"--tensor=3"}), (4, 4, {"--tensor=4", "--device=cuda"})]
)
def test_the_pods_of_a_group_find_each_other(gpus, tensor, flags):
    service = service_with(gpus, pipeline=2, tensor=tensor)
    layout = choose(service, None).layout
    [container] = engine.build_pod_template(service, "engine:1", layout)["spec"]["containers"]
    assert {
        *flags,
        "--pipeline=2",
        "--pods=2",
        "--rendezvous=$(OPENINFERENCE_GROUP)-0.demo-groups.default.svc:8001",
    } <= set(container["args"])
    assert {"OPENINFERENCE_POD_INDEX", "OPENINFERENCE_IMAGE"} <= {
        e["name"] for e in container["env"]
    }
    assert {port["name"] for port in container["ports"]} == {"http", "ranks"}


def test_ranks_of_one_pod_need_no_address():
    service = service_with(tensor=3)
    [container] = engine.build_pod_template(service, "engine:1", Layout(tensor=3))["spec"][
        "containers"
    ]
    assert "--tensor=3" in container["args"]
    assert not any("rendezvous" in flag or "pods" in flag for flag in container["args"])
