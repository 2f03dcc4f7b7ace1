"""Demand from Prometheus: what counts, and what is lost."""

import aiohttp
import pytest
from aiohttp import web
from openinference_operator.scaling import Demand, Lost
from openinference_operator.signals import prometheus as prometheus_module
from openinference_operator.signals.prometheus import (
    RUNNING,
    WAITING,
    Expected,
    Prometheus,
    Sample,
    read_queue,
    read_vector,
)

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


class Hanging:
    """A session with a Prometheus that never answers in time."""

    def __init__(self):
        self.asked = []

    def get(self, url, params, timeout):
        self.asked.append(params["query"])
        raise TimeoutError


async def test_a_prometheus_that_keeps_one_waiting_holds_no_other_up(monkeypatch):
    """Each service held a worker up for seconds, at each evaluation, while upgrades waited."""
    session = Hanging()
    prometheus = Prometheus(session, "http://prometheus")
    told = [await prometheus.queue("team-a", name, Expected(1, 1)) for name in ("a", "b")]
    told.append(await prometheus.query("up"))
    assert len(session.asked) == 1
    assert {lost.reason for lost in told} == {told[0].reason}
    assert "does not answer: TimeoutError" in told[0].reason
    monkeypatch.setattr(prometheus_module, "monotonic", lambda: float("inf"))
    await prometheus.queue("team-a", "b", Expected(1, 1))
    assert len(session.asked) == 2


async def test_a_users_query_that_takes_long_stands_for_nobody_else():
    session = Hanging()
    prometheus = Prometheus(session, "http://prometheus")
    assert isinstance(await prometheus.query("slow"), Lost)
    assert isinstance(await prometheus.query("up"), Lost)
    assert session.asked == ["slow", "up"]


async def test_no_prometheus_at_all_is_lost():
    async with aiohttp.ClientSession() as session:
        lost = await Prometheus(session, "").queue("team-a", "demo", Expected(1, 1))
    assert lost == Lost("no Prometheus is configured")
