"""Demand from Prometheus and from the routers: what counts, and what is lost."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from openinference_operator import names
from openinference_operator.process import open_session
from openinference_operator.scaling import Demand, Lost
from openinference_operator.signals import router_state
from openinference_operator.signals.prometheus import (
    RUNNING,
    WAITING,
    Expected,
    Prometheus,
    Sample,
    read_queue,
    read_vector,
)
from openinference_operator.signals.router_state import Endpoint, RouterStates

NOW = 1_000_000.0


def vector(*series):
    result = [
        {"metric": {"__name__": name, "component": component}, "value": [NOW, value]}
        for name, component, value in series
    ]
    return {"status": "success", "data": {"resultType": "vector", "result": result}}


COMPLETE = (
    (WAITING, "router", "3"),
    (WAITING, "router", "1"),
    (WAITING, "engine", "2"),
    (RUNNING, "engine", "4"),
)
UNREADABLE = {
    "an error": {"status": "error", "error": "out of memory"},
    "a scalar": {"status": "success", "data": {"resultType": "scalar", "result": [NOW, "1"]}},
    "a matrix": {"status": "success", "data": {"resultType": "matrix", "result": []}},
    "not a number": vector((WAITING, "router", "NaN")),
    "infinity": vector((WAITING, "router", "+Inf")),
    "a word": vector((WAITING, "router", "many")),
    "a list": [],
    "nothing": None,
    "no value": {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}}]}},
}


@pytest.mark.parametrize("payload", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_is_no_vector_of_numbers_is_lost(payload):
    assert isinstance(read_vector(payload), Lost)


def test_an_empty_vector_is_a_vector():
    assert read_vector(vector()) == []


def queue(series, routers=2, engines=1, age=5.0):
    samples = read_vector(vector(*series))
    times = [Sample({}, NOW - age)] if series else []
    return read_queue(samples, times, Expected(routers, engines), NOW)


def test_a_complete_queue_is_summed_up():
    assert queue(COMPLETE) == Demand(waiting=6, running=4, source="Prometheus")


INCOMPLETE = {
    "no series at all": ((), "0 of 2 router series"),
    "a router is missing": (COMPLETE[1:], "1 of 2 router series"),
    "the engine is missing": ((*COMPLETE[:2], COMPLETE[3]), "0 of 1 engine series"),
    "nothing tells what runs": (COMPLETE[:3], f"0 of 1 series of {RUNNING}"),
}


@pytest.mark.parametrize(("series", "reason"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
def test_missing_series_are_lost_and_named(series, reason):
    lost = queue(series)
    assert isinstance(lost, Lost)
    assert reason in lost.reason


def test_without_any_router_series_the_queue_is_lost_even_when_none_is_expected():
    assert isinstance(queue(COMPLETE[2:], routers=0), Lost)


def test_a_stale_series_is_lost():
    lost = queue(COMPLETE, age=75)
    assert isinstance(lost, Lost)
    assert "75 s old" in lost.reason


async def serve(handler, path):
    app = web.Application()
    app.router.add_get(path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


@pytest.mark.parametrize("status", [400, 422, 503])
async def test_prometheus_that_refuses_is_lost(status):
    async def refuse(_):
        return web.Response(status=status)

    runner, port = await serve(refuse, "/api/v1/query")
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, f"http://127.0.0.1:{port}")
        lost = await prometheus.queue("team-a", "demo", Expected(1, 1))
    await runner.cleanup()
    assert isinstance(lost, Lost)
    assert str(status) in lost.reason


async def test_prometheus_that_does_not_answer_is_lost(unused_tcp_port):
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, f"http://127.0.0.1:{unused_tcp_port}")
        lost = await prometheus.queue("team-a", "demo", Expected(1, 1))
    assert isinstance(lost, Lost)


@pytest.mark.parametrize("place", ["127.0.0.1:{port}", "127.0.0.1:99999", "[::1"])
async def test_a_password_in_the_url_of_prometheus_is_not_told(unused_tcp_port, place):
    place = place.format(port=unused_tcp_port)
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, f"http://someone:s3c/ret@{place}")
        malformed = await prometheus.query("up")
        prometheus = Prometheus(session, f"http://someone:s3cret@{place}/")
        lost = await prometheus.query("up")
    assert f"Prometheus at http://{place} does not answer" in lost.reason
    assert not any(word in lost.reason + malformed.reason for word in ("someone", "s3c"))


async def test_no_prometheus_at_all_is_lost():
    async with aiohttp.ClientSession() as session:
        lost = await Prometheus(session, "").queue("team-a", "demo", Expected(1, 1))
    assert lost == Lost("no Prometheus is configured")


def state(generation=1, admitted=True, in_flight=0, held=0):
    group = {"admitted": admitted, "inFlight": in_flight, "waiting": 0, "running": 0}
    service = {"generation": generation, "held": held, "groups": {"demo-1-0": group}}
    return {"router": "router-0", "draining": False, "services": {"demo": service}}


class FakeRouter:
    """A router at the border: streams the states that a test puts into its queue."""

    def __init__(self):
        self.states = asyncio.Queue()
        self.tokens = []

    async def stream(self, request):
        self.tokens.append(request.headers.get(names.TOKEN_HEADER))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while (sent := await self.states.get()) is not None:
            data = sent if isinstance(sent, str) else json.dumps(sent)
            await response.write(f"event: state\ndata: {data}\n\n".encode())
        return response


@pytest.fixture
async def followed(monkeypatch):
    """A router that is followed, its endpoint, and the changes that were told."""
    monkeypatch.setattr(router_state, "RECONNECT_SECONDS", 0.01)
    router = FakeRouter()
    runner, port = await serve(router.stream, "/state")
    monkeypatch.setattr(names, "ROUTER_INTERNAL_PORT", port)
    changes = asyncio.Queue()

    async def token_of(namespace):
        return f"token of {namespace}"

    async with aiohttp.ClientSession() as session:
        states = RouterStates(session, token_of, lambda *change: changes.put_nowait(change))
        endpoint = Endpoint("team-a", "router-0", "127.0.0.1")
        states.follow("team-a", [endpoint])
        yield router, states, endpoint, changes
        router.states.put_nowait(None)
        await states.close()
    await runner.cleanup()


async def test_a_report_is_kept_and_told(followed):
    router, states, endpoint, changes = followed
    assert states.is_connecting(endpoint)
    router.states.put_nowait(state(held=2))
    assert await changes.get() == ("team-a", {"demo"})
    assert states.report(endpoint).services["demo"].held == 2
    assert not states.is_connecting(endpoint)
    assert router.tokens == ["token of team-a"]


async def test_more_routers_than_a_pool_of_connections_usually_has_are_heard(monkeypatch):
    over = asyncio.Event()

    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(f"data: {json.dumps(state())}\n\n".encode())
        await over.wait()
        return response

    async def token_of(_):
        return "token"

    runner, port = await serve(stream, "/state")
    monkeypatch.setattr(names, "ROUTER_INTERNAL_PORT", port)
    heard = asyncio.Queue()
    async with open_session() as session:
        states = RouterStates(session, token_of, lambda *change: heard.put_nowait(change))
        endpoints = [Endpoint("team-a", f"router-{number}", "127.0.0.1") for number in range(120)]
        states.follow("team-a", endpoints)
        async with asyncio.timeout(60):
            for _ in endpoints:
                await heard.get()
        await states.close()
    over.set()
    await runner.cleanup()


async def test_a_namespace_of_thousands_of_services_fits_into_a_report(followed):
    router, states, endpoint, changes = followed
    said = state()
    said["services"] = {f"service-{number:05d}": said["services"]["demo"] for number in range(5000)}
    router.states.put_nowait(said)
    _, changed = await asyncio.wait_for(changes.get(), 60)
    assert len(changed) == 5000
    assert len(states.report(endpoint).services) == 5000


async def test_only_changes_that_matter_are_told(followed):
    router, _, _, changes = followed
    for in_flight in (1, 2, 3, 0):
        router.states.put_nowait(state(in_flight=in_flight))
    router.states.put_nowait(state(generation=2))
    told = [await changes.get() for _ in range(3)]
    await asyncio.sleep(0.05)
    assert len(told) == 3
    assert changes.empty()


async def test_a_closed_stream_is_lost_and_opened_again(followed):
    router, states, endpoint, changes = followed
    router.states.put_nowait(state())
    await changes.get()
    router.states.put_nowait(None)
    await changes.get()
    assert states.report(endpoint) is None
    router.states.put_nowait(state())
    await changes.get()
    assert states.report(endpoint) is not None


@pytest.mark.parametrize("line", ["no json", '{"router": 1}', "x" * 700_000])
async def test_a_stream_that_says_nonsense_is_lost_and_opened_again(followed, line):
    router, states, endpoint, changes = followed
    router.states.put_nowait(state())
    await changes.get()
    router.states.put_nowait(line)
    await changes.get()
    assert states.report(endpoint) is None
    router.states.put_nowait(None)
    router.states.put_nowait(state())
    await changes.get()
    assert states.report(endpoint) is not None


async def test_a_silent_stream_is_lost(followed, monkeypatch):
    router, states, endpoint, changes = followed
    monkeypatch.setattr(router_state, "SILENCE_SECONDS", 0.5)
    router.states.put_nowait(None)
    router.states.put_nowait(state())
    await changes.get()
    await changes.get()
    assert states.report(endpoint) is None


async def test_a_pod_that_is_gone_is_forgotten(followed):
    router, states, endpoint, changes = followed
    router.states.put_nowait(state())
    await changes.get()
    states.follow("team-a", [])
    assert states.report(endpoint) is None
    assert await changes.get() == ("team-a", {"demo"})
