"""What the operator hears of router pods: their streams of states, and their loss."""

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web
from openinference_operator import names
from openinference_operator.process import open_session
from openinference_operator.signals import router_state
from openinference_operator.signals.router_state import Endpoint, RouterStates

from tests.operator.test_signals import serve


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


def test_router_is_reached_at_an_address_of_either_family():
    """Where pods have addresses of IPv6, no router was heard."""
    urls = [str(Endpoint("a", "b", address).url) for address in ("10.0.0.7", "fd00::7")]
    assert urls == ["http://10.0.0.7:8081/state", "http://[fd00::7]:8081/state"]


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
    router, states, endpoint, changes = followed
    for in_flight in (1, 2, 3, 0):
        router.states.put_nowait(state(in_flight=in_flight))
    router.states.put_nowait(state(generation=2))
    router.states.put_nowait(None)  # its loss is told behind all others
    told = [await changes.get() for _ in range(4)]
    assert told == [("team-a", {"demo"})] * 4
    assert states.report(endpoint) is None
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
