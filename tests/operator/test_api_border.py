"""Writer, lease, tokens and events against an API server over real HTTP (a small model of one)."""

import asyncio

import pytest
from kubernetes.aio import client
from openinference_operator import lease as lease_module
from openinference_operator import names
from openinference_operator.cluster import RESOURCES, Cluster
from openinference_operator.errors import ApiError, Conflict, LeaseLost, NameConflict, NotFound
from openinference_operator.events import Note, Recorder, notes_on
from openinference_operator.lease import Lease
from openinference_operator.manifests import services
from openinference_operator.manifests.common import signed
from openinference_operator.manifests.engine import build_pod_template, build_statefulset
from openinference_operator.operations import (
    ABREAST,
    Annotate,
    Apply,
    Create,
    Delete,
    Reference,
)
from openinference_operator.spec import parse
from openinference_operator.store import Store
from openinference_operator.tokens import Tokens
from openinference_operator.writer import Writer


@pytest.fixture
def store():
    return Store()


@pytest.fixture
async def writer(cluster, lease, store):
    return Writer(cluster, lease, store)


@pytest.fixture
def service(raw_service):
    return parse(raw_service())


def statefulset(service, name="demo-1a2b3c4d-0"):
    return build_statefulset(service, "1a2b3c4d", name, build_pod_template(service, "engine:1"))


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


async def test_only_one_of_two_replicas_holds_the_lease(cluster, lease):
    other = Lease(cluster, "system", "operator-1")
    task = asyncio.create_task(other.keep())
    await asyncio.sleep(0.1)
    assert lease.is_held
    assert not other.is_held
    task.cancel()


async def test_a_released_lease_is_taken_at_once(cluster, lease, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    await lease.release()
    other = Lease(cluster, "system", "operator-1")
    task = asyncio.create_task(other.keep())
    await asyncio.wait_for(other.wait_until_held(), 30)
    assert not lease.is_held
    task.cancel()


async def test_a_holder_that_is_silent_is_replaced_after_the_duration(cluster, server, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    server.objects[RESOURCES["Lease"].path("system", lease_module.NAME)] = {
        "metadata": {"name": lease_module.NAME, "namespace": "system", "resourceVersion": "1"},
        "spec": {"holderIdentity": "dead", "renewTime": "long ago", "leaseDurationSeconds": 0.3},
    }
    taker, loop = Lease(cluster, "system", "operator-1"), asyncio.get_running_loop()
    started = loop.time()
    task = asyncio.create_task(taker.keep())
    await asyncio.wait_for(taker.wait_until_held(), 30)
    assert loop.time() - started > 0.3
    task.cancel()


async def test_every_time_as_leader_is_a_new_term(cluster, lease, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    first = lease.term
    await lease.release()
    await asyncio.wait_for(lease.wait_until_held(), 30)
    assert lease.term == first + 1


async def test_a_holder_that_cannot_renew_stops_believing(cluster, server, monkeypatch):
    monkeypatch.setattr(lease_module, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(lease_module, "BELIEF_SECONDS", 0.2)
    holder = Lease(cluster, "system", "operator-0")
    task = asyncio.create_task(holder.keep())
    await holder.wait_until_held()
    server.failures = [500] * 1000
    await asyncio.sleep(0.4)
    with pytest.raises(LeaseLost):
        holder.check()
    task.cancel()


async def test_a_token_is_made_once_and_read_by_all(cluster, service):
    await Tokens(cluster).ensure([service])
    first = await Tokens(cluster).token_of("team-a")
    await Tokens(cluster).ensure([service])
    assert len(first) > 30
    assert await Tokens(cluster).token_of("team-a") == first


async def test_a_token_belongs_to_every_service_of_the_namespace(cluster, server, raw_service):
    first, second = parse(raw_service()), parse(raw_service(name="other"))
    await Tokens(cluster).ensure([first])
    await Tokens(cluster).ensure([first, second])
    secret = server.objects[RESOURCES["Secret"].path("team-a", names.TOKEN_SECRET)]
    owners = {owner["name"] for owner in secret["metadata"]["ownerReferences"]}
    assert owners == {"demo", "other"}
    assert "token" in secret["data"]


async def test_a_token_that_is_deleted_meanwhile_does_not_come_back_empty(
    cluster, server, raw_service
):
    """Its new owners were applied to a Secret that had gone with the old ones.

    That made one without a token, which nothing ever mended: routers and engines did not start.
    """
    first, second = parse(raw_service()), parse(raw_service(name="other"))
    tokens, path = Tokens(cluster), RESOURCES["Secret"].path("team-a", names.TOKEN_SECRET)
    await tokens.ensure([first])
    token = server.objects[path]["data"]
    server.vanishing = path
    with pytest.raises(Conflict):
        await tokens.ensure([first, second])
    assert path not in server.objects
    await tokens.ensure([first, second])
    assert server.objects[path]["data"] == token


async def test_a_secret_without_its_token_is_told_with_the_remedy(cluster, server, service):
    labels = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
    server.put("Secret", names.TOKEN_SECRET, metadata={"labels": labels})
    with pytest.raises(NotFound, match="has no 'token'; delete it, and it is made anew"):
        await Tokens(cluster).token_of("team-a")


async def test_a_secret_of_somebody_else_is_left_alone(cluster, server, service):
    server.put("Secret", names.TOKEN_SECRET, data={"token": "eA=="})
    with pytest.raises(NameConflict):
        await Tokens(cluster).ensure([service])


async def test_no_token_yet_is_not_found(cluster):
    with pytest.raises(NotFound):
        await Tokens(cluster).token_of("team-a")


async def test_the_same_words_are_one_event(cluster, server, raw_service):
    recorder = Recorder(cluster)
    for _ in range(3):
        await recorder.record(raw_service(), Note("Scaled", "1 -> 2"))
    await recorder.record(raw_service(), Note("Scaled", "2 -> 3"))
    events = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert sorted(event["message"] for event in events) == ["1 -> 2", "2 -> 3"]
    assert len([call for call in server.calls if "/events" in call[1]]) == 2


async def test_what_an_earlier_leader_said_is_said_again_in_the_same_event(
    cluster, server, raw_service
):
    for _ in range(2):
        await Recorder(cluster).record(raw_service(), Note("Scaled", "1 -> 2"))
    [event] = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert event["message"] == "1 -> 2"


async def test_an_event_that_fails_stops_nothing(cluster, server, raw_service):
    server.failures = [403]
    recorder = Recorder(cluster)
    await recorder.record(raw_service(), Note("Scaled", "1 -> 2"))
    await recorder.record(raw_service(), Note("Scaled", "2 -> 3"))
    [event] = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert event["message"] == "2 -> 3"


def test_every_decision_is_told(service):
    place = Reference("StatefulSet", "team-a", "demo-1a2b3c4d-0", "uid", "1")
    operations = [
        Create(statefulset(service)),
        Annotate(place, {names.ANNOTATION_DRAINING_SINCE: "now"}),
        Delete(place),
        Apply(services.build_client_service(service), exists=True),
    ]
    assert [note.reason for note in notes_on(operations)] == [
        "GroupCreated",
        "GroupDraining",
        "GroupDeleted",
    ]


async def test_the_api_servers_wish_to_be_left_alone_is_heard(cluster, server, service):
    server.failures = [429]
    with pytest.raises(ApiError) as refusal:
        await cluster.create(statefulset(service))
    assert refusal.value.retry_after_seconds == 1
