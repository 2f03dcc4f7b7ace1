"""The ranks of a replica: their pods, and what a model can be divided by."""

import pytest
from openinference_operator.auto_layout import choose
from openinference_operator.errors import SpecError
from openinference_operator.layout import ONE_RANK, Layout, find_misfit, read_layout
from openinference_operator.manifests import engine

from tests.operator.models import LLAMA_70B, SMOLLM2, service_with


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
