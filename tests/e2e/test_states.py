"""The states of an InferenceService that end-to-end tests wait for, and how they are watched."""

import asyncio

import pytest

from e2e.inference_service import InferenceService, is_ready, is_surging
from e2e.kube import Kube, KubeError, condition, is_true

READY = {"type": "Ready", "status": "True", "reason": "Serving", "message": ""}
SETTLED = {
    "observedGeneration": 2,
    "replicas": 1,
    "routableReplicas": 1,
    "updatedReplicas": 1,
    "currentRevision": "1a2b3c4d",
    "updateRevision": "1a2b3c4d",
    "conditions": [READY],
}


def service(**status):
    return {"metadata": {"name": "demo", "generation": 2}, "status": SETTLED | status}


def test_a_settled_service_is_ready():
    assert is_ready(service())


@pytest.mark.parametrize(
    "status",
    [
        {"observedGeneration": 1},
        {"replicas": 2},
        {"updateRevision": "5e6f7a8b"},
        {"conditions": []},
        {"conditions": [READY | {"status": "False"}]},
        {"conditions": [READY | {"observedGeneration": 1}]},
    ],
)
def test_it_is_not_ready_before_the_present_spec_is_in_force(status):
    assert not is_ready(service(**status))


def test_a_service_without_status_is_neither_ready_nor_surging():
    new = {"metadata": {"name": "demo", "generation": 1}}
    assert not is_ready(new)
    assert not is_surging(new)


@pytest.mark.parametrize(
    ("replicas", "updated", "surging"), [(1, 1, False), (2, 1, True), (2, 2, False), (1, 0, False)]
)
def test_it_surges_while_replicas_of_both_revisions_exist(replicas, updated, surging):
    assert is_surging(service(replicas=replicas, updatedReplicas=updated)) is surging


def test_an_absent_condition_is_not_true():
    assert condition(service(), "Progressing") == {}
    assert not is_true(service(), "Progressing")


class Unreachable(Kube):
    async def watch(self, collection, selector=""):
        raise KubeError("the API server is gone")
        yield ()


async def test_a_watch_that_dies_fails_what_counts_by_it():
    """Else a test would judge by the states up to then, and pass."""
    with pytest.raises(KubeError, match="the API server is gone"):
        async with InferenceService(Unreachable("e2e"), "demo").numbers_of_groups():
            await asyncio.sleep(0)
