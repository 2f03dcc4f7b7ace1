"""The writer against an API server over real HTTP (a small model of one)."""

import pytest
from kubernetes.aio import client
from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError, Conflict, LeaseLost, NameConflict
from openinference_operator.manifests import services
from openinference_operator.manifests.common import signed
from openinference_operator.operations import (
    ABREAST,
    Annotate,
    Apply,
    Create,
    Delete,
    Reference,
)
from openinference_operator.resources import RESOURCES
from openinference_operator.spec import parse
from openinference_operator.store import Store
from openinference_operator.writer import Writer

from tests.operator.raw import statefulset


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def writer(cluster, lease, store):
    return Writer(cluster, lease, store)


def reference(obj):
    metadata = obj["metadata"]
    place = (metadata["namespace"], metadata["name"], metadata["uid"], metadata["resourceVersion"])
    return Reference(obj["kind"], *place)


async def test_a_write_is_in_the_store_at_once(writer, store, service):
    await writer.perform([Create(statefulset(service))])
    [obj] = store.select("StatefulSet", "team-a", "demo")
    await writer.perform([Annotate(reference(obj), {"drained": "yes"})])
    assert store.select("StatefulSet", "team-a", "demo")[0]["metadata"]["annotations"] == {
        "drained": "yes"
    }


async def test_creating_what_exists_is_no_error(writer, server, service):
    await writer.perform([Create(statefulset(service))])
    before = dict(server.objects)

    await writer.perform([Create(statefulset(service))])

    assert server.objects == before


async def test_an_object_of_somebody_else_is_a_conflict_of_names(writer, server, service):
    server.put("Service", "demo", spec={"selector": {"app": "theirs"}})
    with pytest.raises(NameConflict, match=r"Service 'demo' exists and does not belong"):
        await writer.perform([Apply(services.build_client_service(service), exists=False)])
    path = RESOURCES["Service"].path("team-a", "demo")
    assert server.objects[path]["spec"] == {"selector": {"app": "theirs"}}


async def test_an_object_of_another_inference_service_is_a_conflict_of_names(
    writer, raw_service, service
):
    """`demo-groups` is the headless Service of `demo` and the client Service of `demo-groups`."""
    await writer.perform([Apply(services.build_groups_service(service), exists=False)])
    other = parse(raw_service(name="demo-groups"))
    with pytest.raises(NameConflict):
        await writer.perform([Apply(services.build_client_service(other), exists=False)])


async def test_an_object_of_an_earlier_namesake_is_waited_for(writer, server, service):
    labels = statefulset(service)["metadata"]["labels"]
    server.put("StatefulSet", "demo-1a2b3c4d-0", metadata={"labels": labels})
    with pytest.raises(Conflict, match="belongs to an earlier InferenceService"):
        await writer.perform([Create(statefulset(service))])


async def test_what_is_ours_is_repaired_by_force(writer, server, service):
    manifest = signed(services.build_client_service(service))
    await writer.perform([Apply(manifest, exists=False)])
    path = RESOURCES["Service"].path("team-a", "demo")
    server.objects[path] |= {"spec": {}, "manager": "somebody"}
    await writer.perform([Apply(manifest, exists=True)])
    assert server.objects[path]["spec"]["ports"]


async def test_an_old_thought_deletes_nothing_newer(writer, server, service):
    await writer.perform([Create(statefulset(service))])
    path = RESOURCES["StatefulSet"].path("team-a", "demo-1a2b3c4d-0")
    seen = reference(server.objects[path])
    await writer.perform([Annotate(seen, {"changed": "yes"})])
    with pytest.raises(Conflict):
        await writer.perform([Delete(seen)])
    await writer.perform([Delete(reference(server.objects[path]))])
    assert path not in server.objects


async def test_nothing_is_written_without_the_lease(writer, lease, server, service):
    await lease.release()
    before = dict(server.objects)
    with pytest.raises(LeaseLost):
        await writer.perform([Create(statefulset(service))])
    assert server.objects == before


async def test_a_plan_ends_at_its_first_failure(writer, server, service):
    server.failures = [500]
    first = Apply(services.build_client_service(service), exists=False)
    with pytest.raises(ApiError, match="500"):
        await writer.perform([first, Create(statefulset(service))])
    assert not any("statefulsets" in path for path in server.objects)


async def test_one_of_several_objects_that_fails_keeps_no_other_from_being_made(
    writer, server, service
):
    server.failures = [500]
    builds = (services.build_client_service, services.build_groups_service)
    with pytest.raises(ApiError, match="500"):
        await writer.perform([Apply(build(service), exists=False) for build in builds])
    assert len([path for path in server.objects if "/services/" in path]) == 1


async def test_of_many_objects_no_more_are_asked_for_when_one_is_refused(writer, server, service):
    """A quota, say, that a thousand groups exceed; and the lease is renewed on the same line."""
    server.refused = "/statefulsets"
    with pytest.raises(ApiError, match="422"):
        await writer.perform(
            [Create(statefulset(service, f"demo-1a2b3c4d-{index}")) for index in range(100)]
        )
    asked = [path for _, path in server.calls if path.endswith(server.refused)]
    assert 1 < len(asked) <= ABREAST


async def test_a_new_object_is_made_by_one_call(writer, server, service):
    before = len(server.calls)
    await writer.perform([Apply(services.build_client_service(service), exists=False)])
    assert [method for method, _ in server.calls[before:]] == ["PATCH"]


async def test_an_object_of_ours_that_was_not_seen_yet_is_taken_over(
    writer, server, store, service
):
    manifest = signed(services.build_client_service(service))
    await writer.perform([Apply(manifest, exists=False)])
    path = RESOURCES["Service"].path("team-a", "demo")
    server.objects[path] |= {"spec": {}, "manager": "somebody"}
    await writer.perform([Apply(manifest, exists=False)])
    assert server.objects[path]["spec"]["ports"]


async def test_a_status_that_says_nothing_new_is_not_written(writer, server, raw_service):
    raw = raw_service() | {"status": {"replicas": 1}}
    calls = len(server.calls)
    await writer.write_status(raw, {"replicas": 1})
    assert len(server.calls) == calls
    await writer.write_status(raw, {"replicas": 2})
    assert server.calls[-1][1].endswith("/inferenceservices/demo/status")


async def test_an_api_server_that_is_away_is_an_error_of_its_own(unused_tcp_port):
    host = f"http://127.0.0.1:{unused_tcp_port}"
    cluster = Cluster(client.ApiClient(client.Configuration(host=host)))
    with pytest.raises(ApiError, match="does not answer"):
        await cluster.get("Service", "team-a", "demo")
    await cluster.close()


async def test_lists_are_read_page_by_page(cluster, server, monkeypatch):
    monkeypatch.setattr("openinference_operator.cluster.PAGE_SIZE", 2)
    for number in range(5):
        server.put("Pod", f"pod-{number}")
    listed = [pod["metadata"]["name"] async for pod in cluster.list_all("Pod", "team-a", "a=b")]
    assert listed == [f"pod-{number}" for number in range(5)]
