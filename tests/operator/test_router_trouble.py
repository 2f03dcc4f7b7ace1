"""Why nobody is reached: what is said while no router pod is Ready."""

import pytest
from openinference_operator import names
from openinference_operator.routers import find_router_trouble
from openinference_operator.store import Store
from openinference_operator.triggers import Key, Triggers

from tests.operator.raw import build_service
from tests.operator.statuses import condition, status_of

METADATA = {"namespace": "team-a", "resourceVersion": "1"}


def router_pod(**status):
    labels = {names.LABEL_COMPONENT: "router"}
    metadata = METADATA | {"name": "router-0", "uid": "pod", "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {}, "status": status}


def deployment(*conditions):
    metadata = METADATA | {"name": "openinference-router", "uid": "deployment", "labels": {}}
    return {"kind": "Deployment", "metadata": metadata, "status": {"conditions": [*conditions]}}


UNSCHEDULED = router_pod(
    conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]
)
CRASHING = router_pod(
    containerStatuses=[
        {
            "name": "router",
            "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 2, "message": "no such file: /tls/tls.crt"}},
        }
    ]
)
UNMADE = deployment(
    {"type": "Available", "status": "False", "message": "too few"},
    {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods=2"},
)


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ([UNSCHEDULED, UNMADE], "pod router-0: 0/3 nodes are available"),
        ([CRASHING], "pod router-0 exited with 2 (4 restarts): no such file: /tls/tls.crt"),
        ([UNMADE], "exceeded quota: pods=2"),
        ([router_pod(), deployment()], ""),
    ],
)
def test_why_no_router_is_ready_is_said_in_the_words_of_who_knows(make_world, objects, words):
    """A condition said "none of 0 router pods is Ready", and no more."""
    world = make_world(replicas=1, routers=0)
    for obj in objects:
        world.objects[obj["kind"], obj["metadata"]["name"]] = obj
    status, reason, message = condition(status_of(world), "RouterReady")
    assert (status, reason) == ("False", "RouterNotReady")
    assert message.partition(" is drained")[2] == (f": {words}" if words else "")


class Silent:
    """Nobody listens to routers here."""

    def follow(self, namespace, endpoints):
        pass


class Keys(list):
    add = list.append


def test_services_hear_of_what_befalls_their_router():
    store, queue = Store(), Keys()
    triggers = Triggers(store, Silent(), queue)
    store.put(build_service())
    for number, obj in enumerate((UNMADE, deployment())):
        obj = obj | {"metadata": obj["metadata"] | {"resourceVersion": str(number + 2)}}
        store.put(obj)
        queue.clear()
        triggers.changed(obj)
        assert Key("team-a", "demo") in queue
    assert find_router_trouble(store, "team-a") == ""
