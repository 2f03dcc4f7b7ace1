"""The store keeps the newest of each object, and the comparison of live and wanted objects."""

import pytest
from openinference_operator.drift import differs
from openinference_operator.store import Store


def pod(version, name="demo-1-0-0", uid="uid-1", service="demo"):
    labels = {"openinference.dev/service": service}
    metadata = {"name": name, "namespace": "team-a", "uid": uid, "labels": labels}
    return {"kind": "Pod", "metadata": {**metadata, "resourceVersion": str(version)}}


def versions(store, service="demo"):
    return [obj["metadata"]["resourceVersion"] for obj in store.select("Pod", "team-a", service)]


def test_the_newest_version_wins_whatever_comes_last():
    store = Store()
    assert [store.put(pod(version)) for version in (9, 10, 8, 10)] == [True, True, False, False]
    assert versions(store) == ["10"]


def test_what_was_deleted_does_not_come_back_through_a_late_answer():
    store = Store()
    store.put(pod(1))
    store.remove(pod(3))
    assert not store.put(pod(2))
    assert versions(store) == []


def test_an_object_that_is_ours_again_is_seen_again():
    """A watch by label tells of the deletion of what has lost its label, and stays what it is."""
    store = Store()
    store.put(pod(1))
    store.remove(pod(3))
    assert store.put(pod(4))
    assert versions(store) == ["4"]


def test_what_vanished_unseen_does_not_come_back_either():
    store = Store()
    store.put(pod(1))
    store.forget_all("Pod", store.uids("Pod"))
    assert not store.put(pod(2))


def test_a_new_object_of_the_same_name_is_another_one():
    store = Store()
    store.put(pod(1))
    store.put(pod(5, uid="uid-2"))
    store.remove(pod(4))
    assert versions(store) == ["5"]


def test_objects_are_found_by_the_service_they_belong_to():
    store = Store()
    store.put(pod(1))
    store.put(pod(1, name="router", uid="uid-2", service=""))
    assert versions(store, "") == ["1"]
    assert versions(store, "other") == []


def test_a_complete_list_shows_what_vanished_unseen():
    store = Store()
    store.put(pod(1))
    store.put(pod(1, name="other", uid="uid-2"))
    before = store.uids("Pod")
    store.put(pod(9, name="young", uid="uid-3"))
    gone = store.forget_all("Pod", before - {pod(2)["metadata"]["uid"]})
    assert [obj["metadata"]["name"] for obj in gone] == ["other"]
    assert len(versions(store)) == 2


def test_managed_fields_are_not_kept():
    store = Store()
    obj = pod(1)
    obj["metadata"]["managedFields"] = ["much"]
    store.put(obj)
    assert "managedFields" not in store.select("Pod", "team-a", "demo")[0]["metadata"]


def test_of_a_pod_only_what_decisions_read_is_kept():
    store = Store()
    container = {"name": "engine", "resources": {"limits": {"memory": "2Gi"}}}
    spec = {"nodeName": "node-a", "containers": [{**container, "env": ["much"]}], "volumes": ["m"]}
    store.put(pod(1) | {"spec": spec, "status": {"phase": "Running"}})
    [kept] = store.select("Pod", "team-a", "demo")
    assert kept["spec"] == {"nodeName": "node-a", "containers": [container]}
    assert kept["status"] == {"phase": "Running"}


def test_the_template_of_a_group_is_not_kept_beside_that_of_its_revision():
    store = Store()
    store.put(pod(1) | {"kind": "StatefulSet", "spec": {"template": ["much"]}})
    assert store.select("StatefulSet", "team-a", "demo")[0]["spec"] == {}


WANTED = {
    "labels": {"a": "1"},
    "ports": [{"port": 80}],
    "limits": {"cpu": "1000m"},
    "empty": {},
}
SAME = {
    "equal": WANTED,
    "defaults were added": WANTED | {"type": "ClusterIP", "labels": {"a": "1", "b": "2"}},
    "an entry got defaults": WANTED | {"ports": [{"port": 80, "protocol": "TCP"}]},
    "an amount in other words": WANTED | {"limits": {"cpu": "1"}},
    "what is empty was dropped": {key: WANTED[key] for key in ("labels", "ports", "limits")},
}
DIFFERENT = {
    "a value changed": WANTED | {"labels": {"a": "2"}},
    "a member is missing": WANTED | {"labels": {}},
    "an entry is missing": WANTED | {"ports": []},
    "another amount": WANTED | {"limits": {"cpu": "2"}},
    "an amount more": WANTED | {"limits": {"cpu": "1", "memory": "1Gi"}},
    "another type": WANTED | {"labels": ["a"]},
}


@pytest.mark.parametrize("live", SAME.values(), ids=SAME.keys())
def test_what_the_api_server_adds_is_no_difference(live):
    assert not differs(live, WANTED)


@pytest.mark.parametrize("live", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_what_somebody_changed_is_a_difference(live):
    assert differs(live, WANTED)


class Counting(dict):
    """A dict that counts how often any of its kind is looked into."""

    looks = 0

    def __contains__(self, key):
        Counting.looks += 1
        return super().__contains__(key)


def test_a_thousand_entries_in_their_order_are_looked_at_once_each():
    """A router has as many owners as its namespace has services."""
    owners = [{"uid": f"uid-{number}"} for number in range(1000)]
    assert not differs({"owners": [Counting(owner) for owner in owners]}, {"owners": owners})
    assert Counting.looks == 1000


def test_entries_in_another_order_are_no_difference():
    owners = [{"uid": "a"}, {"uid": "b"}]
    assert not differs({"owners": owners[::-1]}, {"owners": owners})


def test_services_are_found_by_the_model_name_they_ask_for_now():
    """A thousand services ask for their namesakes at each look, so nobody goes through them all."""

    def service(name, version, model):
        metadata = {"name": name, "namespace": "team-a", "uid": name}
        metadata["resourceVersion"] = str(version)
        return {"kind": "InferenceService", "metadata": metadata, "spec": {"model": model}}

    def claimants(model):
        return [obj["metadata"]["name"] for obj in store.claimants("team-a", model)]

    store = Store()
    store.put(service("b", 1, {"name": "llama"}))
    store.put(service("llama", 1, {}))
    store.put(service("odd", 1, "no model at all"))
    assert claimants("llama") == ["b", "llama"]
    store.put(service("b", 2, {"name": "qwen"}))
    store.remove(service("llama", 2, {}))
    assert claimants("llama") == []
    assert claimants("qwen") == ["b"]
