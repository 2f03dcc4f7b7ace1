"""The controller as a whole: real writer, lease and planner, with an API server over HTTP."""

from openinference_operator import controller as controller_module
from openinference_operator import lease as lease_module
from openinference_operator import names, timestamps
from openinference_operator.resources import RESOURCES
from openinference_operator.triggers import Key

from tests.operator.running import until


async def test_a_new_service_gets_all_its_objects(running, raw_service):
    running.submit(raw_service(replicas=2))
    await until(lambda: "Deployment" in running.kinds() and "StatefulSet" in running.kinds())
    await until(lambda: running.status().get("replicas") == 2)
    assert {
        "ConfigMap",
        "ControllerRevision",
        "Deployment",
        "PodDisruptionBudget",
        "RoleBinding",
        "Secret",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    } <= set(running.kinds())
    assert running.ready()["reason"] == "RouterNotReady"


async def test_a_status_is_written_when_the_objects_are_made_and_not_before(running, raw_service):
    running.submit(raw_service(replicas=2))
    await until(lambda: running.status().get("replicas") == 2)
    await running.at_rest()
    calls = [path.rsplit("/", 1)[1] for _, path in running.server.calls]
    assert calls.count("status") == 1
    assert calls.index("status") > max(
        at for at, word in enumerate(calls) if word == "statefulsets"
    )


async def test_an_impossible_spec_is_refused_in_words_and_stops_nobody_else(running, raw_service):
    running.submit(raw_service(name="bad", model={"uri": "ftp://x"}))
    running.submit(raw_service(name="good"))
    await until(lambda: running.ready("bad") and running.ready("good"))
    assert running.ready("bad")["reason"] == "InvalidSpec"
    assert "spec.model.uri: is 'ftp://x'" in running.ready("bad")["message"]
    assert running.ready("good")["reason"] == "RouterNotReady"


async def test_a_taken_name_is_a_condition_until_it_is_free(running, server, raw_service):
    server.put("Service", "demo", spec={"selector": {"app": "theirs"}})
    running.submit(raw_service())
    await until(lambda: running.ready().get("reason") == "NameConflict")
    assert "Service 'demo'" in running.ready()["message"]
    del server.objects[RESOURCES["Service"].path("team-a", "demo")]
    await until(lambda: running.ready().get("reason") == "RouterNotReady")


async def test_an_api_server_that_fails_now_and_then_is_outlived(running, server, raw_service):
    server.failures = [500, 429, 503, 500]
    running.submit(raw_service())
    await until(lambda: running.status().get("replicas") == 1)
    assert not server.failures, "each was met"


async def test_a_refused_object_is_a_condition_and_freezes_nothing(running, server, raw_service):
    """A quota, say: the status tells it, and everything else that is known."""
    server.refused = "statefulsets"
    running.submit(raw_service())
    await until(lambda: running.ready().get("reason") == "WriteRefused")
    assert "422" in running.ready()["message"]
    assert running.status()["updateRevision"]
    server.refused = ""
    await until(lambda: running.status().get("replicas") == 1)


async def test_a_write_that_fails_for_long_is_said(running, server, raw_service, monkeypatch):
    """As where an admission webhook is away: only the operator's log told what it waits for."""
    monkeypatch.setattr(controller_module, "FAILURES_IN_SILENCE", 2)
    server.failing = "statefulsets"
    running.submit(raw_service())
    await until(lambda: running.ready().get("reason") == "WriteRefused")
    assert "500: POST StatefulSet" in running.ready()["message"]
    assert "failed calling webhook" in running.ready()["message"]
    server.failing = ""
    await until(lambda: running.status().get("replicas") == 1)
    assert running.ready()["reason"] == "RouterNotReady"


async def test_nothing_is_done_twice_at_rest(running, server, raw_service):
    running.submit(raw_service())
    await until(lambda: running.status().get("replicas") == 1)
    await running.at_rest()
    calls = len(server.calls)
    for _ in range(2):
        running.queue.add(Key("team-a", "demo"))
        running.queue.add(Key("team-a", ""))
        await running.at_rest()
    assert len(server.calls) == calls


async def test_a_service_that_is_being_deleted_is_left_to_the_garbage_collector(
    running, server, raw_service
):
    raw = raw_service()
    raw["metadata"]["deletionTimestamp"] = timestamps.to_text(0)
    running.submit(raw)
    await running.at_rest()
    assert set(running.kinds()) <= {"InferenceService", "Lease"}


async def test_without_the_lease_nothing_is_done(running, lease, server, raw_service):
    await lease.release()
    path = RESOURCES["Lease"].path("system", lease_module.NAME)
    server.objects[path]["spec"]["holderIdentity"] = "operator-1"
    calls = len(server.calls)
    running.submit(raw_service())
    await running.at_rest()
    assert len(server.calls) == calls


async def test_a_taken_name_does_not_flicker(running, server, raw_service):
    server.put("Service", "demo", spec={"selector": {"app": "theirs"}})
    running.submit(raw_service())
    await until(lambda: running.ready().get("reason") == "NameConflict")
    await running.at_rest()
    writes = [path for method, path in server.calls if path.endswith("/demo/status")]
    assert len(writes) == 1


async def test_the_scaler_records_its_number_before_it_acts(running, server, raw_service):
    metrics = [{"type": "Queue", "target": {"averageValue": 5}}]
    running.submit(raw_service(autoscaling={"maxReplicas": 5, "metrics": metrics}))
    await until(lambda: running.status().get("replicas") == 2)
    assert running.status()["scaling"]["desired"] == 2
    assert running.status()["scaling"]["inputs"][0]["source"] == "Prometheus"
    writes = [path for method, path in server.calls if method in ("PATCH", "POST")]
    first_status = next(at for at, path in enumerate(writes) if path.endswith("/demo/status"))
    first_group = next(at for at, path in enumerate(writes) if path.endswith("/statefulsets"))
    assert first_status < first_group


async def test_the_router_belongs_to_every_service(running, server, raw_service):
    running.submit(raw_service())
    running.submit(raw_service(name="other"))
    path = RESOURCES["Deployment"].path("team-a", names.ROUTER)

    def owners():
        metadata = server.objects.get(path, {}).get("metadata", {})
        return {owner["name"] for owner in metadata.get("ownerReferences", [])}

    await until(lambda: owners() == {"demo", "other"})
    # One whose spec becomes impossible goes on as it runs, so its router stays when others go.
    running.submit(raw_service(generation=2, model={"uri": "ftp://x"}))
    await until(lambda: running.ready().get("reason") == "InvalidSpec")
    running.submit(raw_service(name="third"))
    await until(lambda: owners() == {"demo", "other", "third"})


async def test_an_impossible_spec_alone_gets_no_router(running, raw_service):
    running.submit(raw_service(model={"uri": "ftp://x"}))
    await until(lambda: running.ready().get("reason") == "InvalidSpec")
    await running.at_rest()
    assert "Deployment" not in running.kinds()


async def test_a_router_that_may_not_be_made_is_told_to_its_services(running, server, raw_service):
    """By a quota, say; only the operator's log told."""
    server.forbidden = f"/deployments/{names.ROUTER}"
    running.submit(raw_service())

    def told():
        return [obj["message"] for path, obj in server.objects.items() if "/events/" in path]

    await until(lambda: any(f"Deployment team-a/{names.ROUTER}" in words for words in told()))


async def test_services_hear_of_a_router_pod_only_what_they_see_of_it(
    running, raw_service, monkeypatch
):
    running.submit(raw_service())
    await until(lambda: running.status().get("replicas") == 1)
    await running.at_rest()
    added = []
    monkeypatch.setattr(running.queue, "add", added.append)

    def show(version, is_ready, **more):
        ready = {"type": "Ready", "status": "True" if is_ready else "False"}
        metadata = {"name": "router-0", "namespace": "team-a", "uid": "uid-of-router"}
        metadata |= {"resourceVersion": str(version), "labels": {}, **more}
        pod = {"kind": "Pod", "metadata": metadata, "status": {"conditions": [ready]}}
        added.clear()
        running.store.put(pod)
        running.triggers.changed(pod)
        return Key("team-a", "demo") in added

    assert show(1_000_001, is_ready=False)
    assert not show(1_000_002, is_ready=False, annotations={"who": "cares"})
    assert show(1_000_003, is_ready=True)
    assert not show(1_000_004, is_ready=True)


async def test_a_failure_of_the_operator_itself_is_said_and_concerns_nobody_else(
    running, server, raw_service
):
    """Somebody edits an annotation into what is no time."""
    running.submit(raw_service())
    await until(lambda: running.store.select("StatefulSet", "team-a", "demo"))
    [group] = running.store.select("StatefulSet", "team-a", "demo")
    annotations = {names.ANNOTATION_READY_AT: "yesterday"}
    metadata = {**group["metadata"], "annotations": annotations, "resourceVersion": "999999"}
    running.store.put({**group, "metadata": metadata})
    running.triggers.changed(group)
    await until(lambda: running.ready().get("reason") == "InternalError")
    assert "yesterday" in running.ready()["message"]
    running.submit(raw_service(name="other"))
    await until(lambda: running.ready("other").get("reason") == "RouterNotReady")
