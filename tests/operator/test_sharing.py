"""How many GPUs may share a stage, in words that help."""

import pytest
from openinference_operator.layout import Layout
from openinference_operator.sharing import find_gpu_misfit

from tests.operator.models import LLAMA_70B, MIXTRAL, QWEN3_MOE


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
