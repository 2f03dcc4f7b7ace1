"""How a model comes to its replicas: what is read from Jobs and pods, and what is done about it."""

import json

import pytest
from openinference_operator import names
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


def test_a_pod_that_follows_an_evicted_one_counts(service):
    evicted = pod_of(service, state=terminated(137, ""))
    going_on = pod_of(service, state={"running": {}})
    assert read(service, evicted, going_on).stage is ModelStage.FETCHING
