"""API keys: who passes, how often, in which class; and how they change."""

import asyncio
import hashlib
import json

import pytest
from aiohttp import web
from kubernetes.aio import client, config
from openinference_router import secret
from openinference_router.errors import Refusal
from openinference_router.keys import Key, KeyRing
from openinference_router.keysecret import KeySecret
from openinference_router.waiting import Caller


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ring(clock=None, replicas=1, **keys) -> KeyRing:
    made = KeyRing(is_known=False, replicas=replicas, clock=clock or Clock())
    made.replace({name: Key(sha256=digest(f"{name}-key"), **key) for name, key in keys.items()})
    return made


def admit(keys: KeyRing, authorization: str, num_tokens: int = 0) -> Caller:
    with keys.admit(authorization) as admission:
        admission.num_tokens = num_tokens
        return admission.caller


def test_a_key_gives_its_name_and_class():
    keys = ring(team={"priority": "high"}, batch={"priority": "low"})
    assert admit(keys, "Bearer team-key") == Caller("team", 0)
    assert admit(keys, "bearer  batch-key ") == Caller("batch", 2)


WRONG = ["", "Bearer", "Bearer wrong", "Basic team-key", "team-key"]


@pytest.mark.parametrize("authorization", WRONG)
def test_without_a_right_key_nobody_passes(authorization):
    with pytest.raises(Refusal) as caught:
        admit(ring(team={}), authorization)
    assert caught.value.status == 401
    assert "wrong-key" not in caught.value.message


def test_before_the_keys_are_known_nobody_passes():
    with pytest.raises(Refusal) as caught:
        admit(KeyRing(is_known=False), "Bearer team-key")
    assert caught.value.status == 503


def test_without_a_secret_anybody_passes_and_without_a_key_in_it_nobody():
    keys = KeyRing(is_known=False)
    keys.replace(None)
    assert admit(keys, "") == Caller()
    keys.replace({})
    with pytest.raises(Refusal):
        admit(keys, "")


def test_requests_per_minute_refill_with_time_and_say_when_to_come_back():
    clock = Clock()
    keys = ring(clock, team={"requests_per_minute": 2})
    admit(keys, "Bearer team-key")
    admit(keys, "Bearer team-key")
    with pytest.raises(Refusal) as caught:
        admit(keys, "Bearer team-key")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    clock.now += int(caught.value.headers()["Retry-After"])
    admit(keys, "Bearer team-key")


def test_tokens_per_minute_are_paid_back_after_the_request_that_overdrew_them():
    clock = Clock()
    keys = ring(clock, team={"tokens_per_minute": 600})
    admit(keys, "Bearer team-key", num_tokens=700)
    with pytest.raises(Refusal, match="600 tokens a minute") as caught:
        admit(keys, "Bearer team-key")
    assert caught.value.headers()["Retry-After"] == "11"
    clock.now += 11
    admit(keys, "Bearer team-key")


LIMITS = {
    "concurrency": {"concurrency": 4},
    "requests": {"requests_per_minute": 4},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_each_router_pod_grants_its_part(limits):
    keys = ring(replicas=2, team=limits)
    with keys.admit("Bearer team-key"), keys.admit("Bearer team-key"), pytest.raises(Refusal):
        admit(keys, "Bearer team-key")


def test_concurrency_counts_open_requests_only():
    keys = ring(team={"concurrency": 1})
    with keys.admit("Bearer team-key"), pytest.raises(Refusal, match="open already"):
        admit(keys, "Bearer team-key")
    admit(keys, "Bearer team-key")


def test_a_changed_secret_keeps_what_was_used_and_drops_who_left():
    clock = Clock()
    keys = ring(clock, team={"requests_per_minute": 1})
    admit(keys, "Bearer team-key")
    keys.replace({"team": Key(sha256=digest("new-key"), requests_per_minute=1)})
    with pytest.raises(Refusal, match="missing or wrong"):
        admit(keys, "Bearer team-key")
    with pytest.raises(Refusal, match="times a minute"):
        admit(keys, "Bearer new-key")


async def test_every_path_of_the_client_port_wants_the_key(make_bench, make_routing):
    bench = await make_bench(make_routing())
    bench.keys.replace({"team": Key(sha256=digest("team-key"))})
    async with bench.client.get(f"{bench.url}/v1/models") as response:
        assert response.status == 401
        assert (await response.json())["error"]["code"] == "invalid_api_key"
    headers = {"Authorization": "Bearer team-key"}
    async with bench.client.get(f"{bench.url}/v1/models", headers=headers) as response:
        assert response.status == 200
    async with bench.client.get(f"{bench.internal_url}/ready") as response:
        assert response.status == 200


async def test_a_key_of_a_higher_class_passes_those_who_wait(
    play, make_bench, make_routing, make_routed
):
    order = []

    async def note(request):
        order.append((await request.json())["user"])
        return web.json_response({})

    engine = await play(usual=note)
    engine.load["seats"] = 1
    bench = await make_bench(make_routing())
    bench.keys.replace(
        {
            "batch": Key(sha256=digest("batch-key"), priority="low"),
            "team": Key(sha256=digest("team-key"), priority="high"),
        }
    )

    async def ask(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}-key"}
        async with bench.chat(user=key, headers=headers) as response:
            return response.status

    tasks = []
    for number, key in enumerate(["batch", "batch", "batch", "team"]):
        tasks.append(asyncio.create_task(ask(key)))
        await bench.held(number + 1)
    bench.router.apply([make_routing(make_routed(engine.address), generation=2)])
    assert await asyncio.gather(*tasks) == [200] * 4
    assert order.index("team") < 2  # seat and look-ahead are taken together


@pytest.fixture
async def snapshots(api_server, tmp_path, monkeypatch):
    monkeypatch.setattr(secret, "READ_SECONDS", 0.05)
    await config.load_kube_config(str(api_server.kubeconfig(tmp_path)))
    async with client.ApiClient() as api:
        yield KeySecret(client.CoreV1Api(api), "team-a", "openinference-keys").snapshots()


async def test_keys_follow_the_secret(api_server, snapshots, caplog):
    assert await anext(snapshots) is None
    good = {"sha256": digest("team-key"), "requestsPerMinute": 60}
    api_server.secret = {"team": json.dumps(good)}
    assert await anext(snapshots) == {"team": Key(digest("team-key"), requests_per_minute=60)}
    api_server.secret = {"team": json.dumps({**good, "requestPerMinute": 1}), "other": "no JSON"}
    assert (await anext(snapshots)).keys() == {"team"}  # its last good version
    assert [record.key for record in caplog.records] == ["team", "other"]


async def test_the_last_deleted_key_closes_the_router_and_the_deleted_secret_opens_it(
    api_server, snapshots
):
    """An empty Secret once meant none: who took away the last key had let everybody in."""
    api_server.secret = {"team": json.dumps({"sha256": digest("team-key")})}
    assert await anext(snapshots)
    api_server.secret = {}
    assert await anext(snapshots) == {}
    api_server.secret = None
    assert await anext(snapshots) is None
