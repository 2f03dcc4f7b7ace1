"""Which layout a replica gets whose sizes the user did not choose."""

import pytest
from openinference_operator.auto_layout import choose
from openinference_operator.layout import Layout, find_misfit
from openinference_operator.sizing import size

from tests.operator.models import LLAMA_70B, MIXTRAL, QWEN3_MOE, SMOLLM2, service_with


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


@pytest.mark.parametrize(
    ("gibibytes", "layout", "words"),
    [
        ([80, 16, 1], Layout(2, tensor=8, pods=2), "of the 17.2 GB of the smallest with places fo"),
        ([80, 16, 8], Layout(3, tensor=8, pods=3), "of the 8.6 GB of the smallest with places for"),
        ([80, 16, 6], Layout(2, tensor=8, pods=2), "of the 17.2 GB of the smallest with places fo"),
        (
            [80, 4],
            Layout(tensor=8),
            "one pod holds it: the fullest GPU then needs 21.3 GB of the 85.9",
        ),
        ([16, 8], Layout(2, tensor=8, pods=2), "of the 17.2 GB of the largest"),
    ],
)
def test_pods_are_as_many_as_the_smallest_gpus_need_that_have_places_for_all(
    gibibytes, layout, words
):
    """A scheduler knows no memory of GPUs: a pod for which the largest was counted may get less.

    But one small GPU made a model go over more pods than there were nodes.
    """
    choice = choose(service_with(8, auto=True), LLAMA_70B, [each << 30 for each in gibibytes])
    assert choice.layout == layout
    assert words in choice.reason
