"""How a model comes to its replicas: what is read from Jobs and pods, and what is done about it."""

import json

import pytest
from openinference_operator import names
from openinference_operator.conditions import judge
from openinference_operator.facts import Facts
from openinference_operator.manifests import model
from openinference_operator.operations import Annotate, Create, Delete
from openinference_operator.preparation import (
    ModelStage,
    Progress,
    plan_preparation,
    read_preparation,
    read_progress,
)
from openinference_operator.spec import parse
from openinference_operator.status import build_status

REMOTE = {"uri": "hf://team/tiny", "cache": {"pvc": "models"}}
SUMMARY = {
    "architecture": "llama",
    "parameters": 8_000_000_000,
    "weightBytes": 16_000_000_000,
    "numLayers": 32,
    "numKvHeads": 8,
    "headDim": 128,
    "maxPositions": 8192,
}
RESULT = json.dumps({"revision": "a" * 40, "bytes": 16_100_000_000, "summary": SUMMARY})


def job_of(service, annotations=None, **status):
    manifest = model.build_job(service, "engine:1")
    manifest["metadata"] |= {
        "uid": "uid-of-job",
        "resourceVersion": "1",
        "annotations": annotations or {},
    }
    return manifest | {"status": status}


def pod_of(service, **container):
    """A pod of the Job whose one container is in that state."""
    return {
        "kind": "Pod",
        "metadata": {
            "name": "fetcher",
            "labels": {"batch.kubernetes.io/job-name": model.job_name(service)},
        },
        "status": {"containerStatuses": [{"name": "model", **container}]},
    }


def terminated(code, message):
    return {"terminated": {"exitCode": code, "message": message}}


def read(service, *pods, jobs=None):
    jobs = [job_of(service)] if jobs is None else jobs
    return read_preparation(service, "1a2b3c4d", jobs, pods)


@pytest.fixture
def service(raw_service):
    return parse(raw_service(model=REMOTE))


def test_a_local_model_needs_nobody(raw_service):
    preparation = read(parse(raw_service()), jobs=[])
    assert preparation.stage is ModelStage.IN_PLACE
    assert not preparation.holds_replicas


def test_replicas_wait_for_the_job_that_is_not_there_yet(service):
    preparation = read(service, jobs=[])
    assert (preparation.stage, preparation.holds_replicas) == (ModelStage.PENDING, True)


STATES = {
    "its container is not made yet": ({}, ModelStage.PENDING, "container does not run yet"),
    "a Secret is missing": (
        {"state": {"waiting": {"reason": "Error", "message": 'secret "hf" not found'}}},
        ModelStage.FAILED,
        'pod fetcher: secret "hf" not found',
    ),
    "it runs": ({"state": {"running": {}}}, ModelStage.FETCHING, ""),
    "it runs again": (
        {"state": {"running": {}}, "lastState": terminated(2, "openinference: cut; again")},
        ModelStage.FETCHING,
        "cut; again",
    ),
    "it backs off": (
        {
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}},
            "lastState": terminated(2, "hf://team/tiny: access is refused (401); give a token"),
        },
        ModelStage.FAILED,
        "pod fetcher: hf://team/tiny: access is refused (401); give a token",
    ),
    "it is done": ({"state": terminated(0, RESULT)}, ModelStage.READY, ""),
}


@pytest.mark.parametrize(("container", "stage", "message"), STATES.values(), ids=STATES.keys())
def test_the_state_of_the_pod_is_the_state_of_the_model(service, container, stage, message):
    preparation = read(service, pod_of(service, **container))
    assert preparation.stage is stage
    assert message in preparation.message
    assert preparation.holds_replicas == (stage is not ModelStage.READY)
    assert preparation.fetcher == ("fetcher" if stage is ModelStage.FETCHING else "")


def test_an_unscheduled_pod_says_why(service):
    pod = pod_of(service)
    told = 'persistentvolumeclaim "models" not found'
    pod["status"] = {"conditions": [{"type": "PodScheduled", "status": "False", "message": told}]}
    assert told in read(service, pod).message


def test_the_result_is_kept_on_the_job_because_its_pod_may_go(service):
    done = pod_of(service, state=terminated(0, RESULT))
    [note] = plan_preparation(service, [job_of(service)], [done], "engine:1")
    assert isinstance(note, Annotate)
    noted = job_of(service, annotations=dict(note.annotations), succeeded=1)
    preparation = read(service, jobs=[noted])
    assert preparation.result.revision == "a" * 40
    assert preparation.result.summary == SUMMARY
    assert list(plan_preparation(service, [noted], [], "engine:1")) == []


@pytest.mark.parametrize(
    "summary",
    [
        None,
        [],
        {},
        {key: value for key, value in SUMMARY.items() if key != "headDim"},
        SUMMARY | {"numKvHeads": 0},
        SUMMARY | {"maxPositions": "8192"},
        SUMMARY | {"numLayers": True},
        SUMMARY | {"weightBytes": -1},
    ],
)
def test_a_summary_that_cannot_be_reckoned_with_stops_nothing(make_world, summary):
    world = make_world(model=REMOTE)
    world.reconcile()
    [job] = [obj for (kind, _), obj in world.objects.items() if kind == "Job"]
    result = json.dumps({"revision": "a" * 40, "bytes": 16_100_000_000, "summary": summary})
    job["metadata"]["annotations"] = {names.ANNOTATION_MODEL: result}
    world.settle()
    assert len(world.routable) == 1
    assert world.observe().sizing(world.parsed) is None
    assert world.observe().preparation.result.num_bytes == 16_100_000_000


def test_a_job_whose_words_are_lost_is_made_anew(service):
    [operation] = plan_preparation(service, [job_of(service, succeeded=1)], [], "engine:1")
    assert isinstance(operation, Delete)
    assert operation.reference.kind == "Job"


def test_another_model_gets_another_job_and_the_old_one_goes(raw_service, service):
    other = parse(raw_service(model=REMOTE | {"revision": "v2"}))
    operations = list(plan_preparation(other, [job_of(service)], [], "engine:1"))
    assert [type(operation) for operation in operations] == [Create, Delete]
    assert operations[0].manifest["metadata"]["name"] != operations[1].reference.name


def test_another_engine_option_needs_no_new_job(raw_service, service):
    other = parse(raw_service(model=REMOTE, engine={"maxSequences": 2}))
    assert list(plan_preparation(other, [job_of(service)], [], "engine:2")) == []


def test_equal_models_of_two_services_share_a_folder(raw_service, service):
    other = parse(raw_service(name="other", model=REMOTE | {"name": "theirs"}))
    assert other.model.path == service.model.path
    assert parse(raw_service(model=REMOTE | {"revision": "v2"})).model.path != service.model.path


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ('{"downloadedBytes": 5, "totalBytes": 9}', Progress(5, 9)),
        ('{"level": "warning", "event": "download cut"}', None),
        ("Traceback", None),
        ("", None),
        ("[]", None),
    ],
)
def test_progress_is_read_from_lines_that_tell_it(line, progress):
    assert read_progress(line) == progress


# In the model cluster.


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


def test_a_pod_that_follows_an_evicted_one_counts(service):
    evicted = pod_of(service, state=terminated(137, ""))
    going_on = pod_of(service, state={"running": {}})
    assert read(service, evicted, going_on).stage is ModelStage.FETCHING


def test_without_a_claim_each_replica_fetches_for_itself(make_world):
    world = make_world(model={"uri": "hf://team/tiny"}, replicas=2)
    world.reconcile()
    assert len(world.groups) == 2
    assert conditions(world)["ModelReady"] == ("False", "DownloadPending")
