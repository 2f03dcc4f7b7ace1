"""Replicas, rollouts and status while a model is fetched."""

import pytest
from openinference_operator import names
from openinference_operator.conditions import judge
from openinference_operator.errors import ApiError
from openinference_operator.facts import Facts
from openinference_operator.signals.survey import Survey
from openinference_operator.status import build_status

from tests.operator.test_preparation import REMOTE, RESULT


def fetch(world):
    """Let the Job of the world end well."""
    for (kind, _), job in world.objects.items():
        if kind == "Job":
            job["metadata"].setdefault("annotations", {})[names.ANNOTATION_MODEL] = RESULT


def conditions(world):
    facts = Facts(world.parsed, world.observe(), world.plan(), None, world.now)
    return {each.type: (each.status, each.reason) for each in judge(facts)}


def test_no_replica_starts_before_its_model_is_there(make_world):
    world = make_world(model=REMOTE, replicas=2)
    world.settle()
    assert (len(world.groups), conditions(world)["Ready"]) == (0, ("False", "DownloadPending"))
    assert not [name for kind, name in world.objects if kind == "ControllerRevision"]
    fetch(world)
    world.settle()
    assert len(world.groups) == 2
    assert conditions(world)["Ready"] == ("True", "Serving")


def test_the_old_revision_serves_and_scales_while_the_new_model_is_fetched(make_world):
    world = make_world(replicas=2)
    world.settle()
    before = set(world.groups)
    world.change(model=REMOTE, replicas=3)
    world.settle()
    assert before < world.routable
    assert len(world.routable) == 3
    assert conditions(world)["Ready"] == ("False", "DownloadPending")
    assert conditions(world)["Available"][0] == "True"
    fetch(world)
    world.settle()
    assert not before & set(world.groups)
    assert len(world.routable) == 3


def test_a_job_that_somebody_deletes_drains_nobody(make_world):
    world = make_world(model=REMOTE, replicas=2)
    world.reconcile()
    fetch(world)
    world.settle()
    before = set(world.groups)
    for key in [key for key in world.objects if key[0] == "Job"]:
        del world.objects[key]
    world.settle()
    assert world.routable == before


def test_how_long_a_replica_may_start_follows_from_the_size_of_its_model(make_world):
    world = make_world(model=REMOTE)
    world.reconcile()
    fetch(world)
    world.settle()
    [group] = world.groups.values()
    probe = group["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] == 300 + 16_100_000_000 // 20_000_000


def test_the_status_tells_revision_and_bytes(make_world):
    world = make_world(model=REMOTE)
    world.reconcile()
    fetch(world)
    facts = Facts(world.parsed, world.observe(), world.plan(), None, world.now)
    status = build_status(facts)
    assert status["model"] == {
        "resolvedRevision": "a" * 40,
        "sizeBytes": 16_100_000_000,
        "downloadedBytes": 16_100_000_000,
    }
    assert status["plan"] == {
        "parallelism": "1 pod: pipeline 1, tensor 1, expert 1 (spec.parallelism is not set)",
        "podsPerReplica": 1,
        "gpusPerPod": 0,
        "gpusPerReplica": 0,
        "weightsPerGPU": 16_000_000_000,
    }


def test_a_model_that_cannot_fit_starts_no_replica(make_world):
    world = make_world(model=REMOTE, resources={"limits": {"memory": "8Gi"}})
    world.reconcile()
    fetch(world)
    world.settle()
    assert len(world.groups) == 0
    assert conditions(world)["Ready"] == ("False", "ModelTooLarge")


async def test_nodes_that_cannot_be_listed_hold_up_a_choice_and_nothing_else(
    make_world, cluster, server
):
    """What is chosen by the memory of GPUs is kept for good; drains need no nodes."""
    world = make_world(model=REMOTE, resources={"limits": {"nvidia.com/gpu": 2}})
    world.reconcile()
    fetch(world)
    server.failures = [500]
    with pytest.raises(ApiError):
        await Survey(cluster).add(world.parsed, world.observe())
    world.settle()
    server.failures = [500]
    observed, _ = await Survey(cluster).add(world.parsed, world.observe())
    assert observed.gpu_memories == ()
    assert not server.failures, "it was met"


@pytest.mark.parametrize("crash_after", range(1, 7))
def test_a_crash_after_any_operation_changes_nothing_in_the_end(make_world, crash_after):
    """Each plan on the way to a fetched model dies after so many operations."""
    world = make_world(replicas=2)
    world.settle()
    world.change(model=REMOTE)
    for _ in range(40):
        world.reconcile(crash_after)
        world.everybody_acts()
        assert len(world.routable) == 2
    fetch(world)
    for _ in range(60):
        world.reconcile(crash_after)
        world.everybody_acts()
    world.settle()
    assert [kind for kind, _ in world.objects].count("Job") == 1
    assert {world.revision_of(group) for group in world.groups} == {world.plan().course.revision}
    assert len(world.routable) == 2


def test_without_a_claim_each_replica_fetches_for_itself(make_world):
    world = make_world(model={"uri": "hf://team/tiny"}, replicas=2)
    world.reconcile()
    assert len(world.groups) == 2
    assert conditions(world)["ModelReady"] == ("False", "DownloadPending")
