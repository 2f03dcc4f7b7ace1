"""Following the routing ConfigMaps of a namespace, through the real Kubernetes client."""

import asyncio

import pytest
from kubernetes.aio import client, config
from openinference_router import watch
from openinference_router.configmaps import watch_routing


@pytest.fixture
async def snapshots(api_server, tmp_path):
    """Iterates what the watch yields, with a time limit on each step."""
    await config.load_kube_config(str(api_server.kubeconfig(tmp_path)))
    async with client.ApiClient() as api:
        stream = watch_routing(api, "team-a").snapshots()

        async def take() -> dict[str, int]:
            async with asyncio.timeout(60):
                return {routing.service: routing.generation for routing in await anext(stream)}

        yield take
        await stream.aclose()


async def test_what_is_there_is_listed_and_changes_follow(api_server, snapshots, make_routing):
    api_server.put_routing(make_routing())
    assert await snapshots() == {"demo": 1}
    api_server.put_routing(make_routing(generation=2))
    assert await snapshots() == {"demo": 2}
    api_server.put_routing(make_routing(service="other"))
    assert await snapshots() == {"demo": 2, "other": 1}
    api_server.delete("demo-routing")
    assert await snapshots() == {"other": 1}


async def test_only_labelled_configmaps_are_asked_for(api_server, snapshots):
    assert await snapshots() == {}
    assert api_server.queries[0]["labelSelector"] == "openinference.dev/routing=true"


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "{}",
        '{"service": "demo", "model": "", "generation": 2, "createdAt": "2026-01-01T00:00:00Z"}',
        '{"service": "demo", "model": "m", "generation": 2, "createdAt": "yesterday"}',
    ],
)
async def test_of_a_bad_document_the_last_good_version_stays(
    api_server, snapshots, make_routing, caplog, text
):
    api_server.put_routing(make_routing())
    assert await snapshots() == {"demo": 1}
    api_server.put("demo-routing", text)
    assert await snapshots() == {"demo": 1}
    assert "routing ignored" in [record.getMessage() for record in caplog.records]


async def test_a_watch_that_expired_starts_from_a_new_list(api_server, snapshots, until):
    assert await snapshots() == {}
    following = asyncio.create_task(snapshots())
    await until(lambda: bool(api_server.watchers))
    api_server.expire()
    assert await following == {}
    assert api_server.num_lists == 2


async def test_a_watch_that_expires_again_and_again_does_not_hammer_the_api_server(
    api_server, snapshots, monkeypatch
):
    """A list once came at once after each expiry: hundreds a second, from every router pod."""
    pauses = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(watch.asyncio, "sleep", note)
    api_server.is_compacted = True
    for _ in range(3):
        assert await snapshots() == {}
    assert api_server.num_lists == 3
    assert pauses == [watch.RETRY_SECONDS] * 2


async def test_a_lost_connection_is_no_loss_of_routing(
    api_server, snapshots, make_routing, monkeypatch, until
):
    monkeypatch.setattr(watch, "RETRY_SECONDS", 0.05)
    api_server.put_routing(make_routing())
    assert await snapshots() == {"demo": 1}
    following = asyncio.create_task(snapshots())
    await until(lambda: bool(api_server.watchers))
    api_server.hang_up()
    assert await following == {"demo": 1}
    api_server.put_routing(make_routing(generation=2))
    assert await snapshots() == {"demo": 2}
