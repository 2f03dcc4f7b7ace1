"""The demo's pure parts: what it draws, how it ticks, what it asks Prometheus."""

import asyncio
import io
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console

from e2e.demo.prometheus import instant_value, waiting_query
from e2e.demo.screen import Screen, typed
from e2e.demo.ticks import at_least_every
from e2e.demo.views import conditions_view, rollout_view, scaling_view, sparkline
from e2e.report import Report


def printed(renderable):
    console = Console(file=io.StringIO(), width=120)
    console.print(renderable)
    return console.file.getvalue()


def condition(kind, status, message="[1 of 1]"):
    return {"type": kind, "status": status, "reason": "Because", "message": message}


SERVICE = {
    "metadata": {"name": "smollm2"},
    "status": {
        "replicas": 2,
        "updatedReplicas": 1,
        "routableReplicas": 1,
        "replicasSummary": "1/2",
        "currentRevision": "1a2b3c4d",
        "updateRevision": "5e6f7a8b",
        "scaling": {
            "reason": "ScalingUp",
            "message": "8 waiting",
            "inputs": [{"type": "Queue", "source": "Prometheus"}],
        },
        "conditions": [condition("Ready", "False"), condition("ScalingLimited", "False")],
    },
}
NEW = {"metadata": {"name": "smollm2"}}


@pytest.mark.parametrize(
    ("values", "bars"),
    [([], ""), ([0], " "), ([0, 0], "  "), ([1, 4, 8], "▁▄█"), ([0.5, 1], "▄█")],
)
def test_a_sparkline_is_scaled_to_its_highest_value(values, bars):
    assert sparkline(values) == bars


def test_a_sparkline_shows_the_newest_values():
    assert sparkline([100.0, *[1.0] * 60]) == "█" * 40


def test_conditions_say_in_full_what_is_not_yet_so():
    ready, limited = printed(conditions_view(SERVICE)).splitlines()
    assert ready.split() == ["…", "Ready", "Because", "[1", "of", "1]"]
    assert limited.split()[0] == "✓"


def test_scaling_shows_queue_replicas_decision_and_source():
    text = printed(scaling_view(SERVICE, [2.0, 8.0]))
    for word in ("▂█ 8", "1/2", "ScalingUp: 8 waiting", "Prometheus"):
        assert word in text


def test_a_rollout_shows_revisions_and_counts():
    text = printed(rollout_view(SERVICE, Report(())))
    for word in ("1a2b3c4d → 5e6f7a8b", "1 of the new revision", "complete 0, refused 0, lost 0"):
        assert word in text


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (conditions_view(NEW), ""),
        (scaling_view(NEW, []), "? routable/desired"),
        (rollout_view(NEW, Report(())), "None → None"),
    ],
)
def test_a_service_without_status_can_be_drawn(view, text):
    assert text in printed(view)


def test_a_command_can_be_typed_in_the_project_folder():
    words = ["/src/project/.venv/bin/python", "-m", "x", "--patch={'a': 1}"]
    assert (
        typed(words, Path("/src/project")) == """.venv/bin/python -m x '--patch={'"'"'a'"'"': 1}'"""
    )


def test_what_a_command_printed_is_not_taken_for_markup():
    screen = Screen(Console(file=io.StringIO(), width=80))
    screen.output("[bold]x\n")
    screen.fail("[red]y")
    assert screen.console.file.getvalue() == "[bold]x\n✗ [red]y\n"


async def test_a_quiet_stream_ticks_with_its_newest_state():
    async def states():
        yield 1
        await asyncio.Event().wait()

    ticking = at_least_every(0.01, states())
    assert [await anext(ticking) for _ in range(3)] == [1, 1, 1]
    await ticking.aclose()


async def test_every_state_passes_and_the_end_ends_it():
    async def states():
        yield 1
        yield 2
        yield 3

    assert [state async for state in at_least_every(60, states())] == [1, 2, 3]


async def test_a_failure_of_the_stream_comes_through():
    async def states():
        yield 1
        raise ConnectionError

    with pytest.raises(ConnectionError):
        [state async for state in at_least_every(60, states())]


@pytest.mark.parametrize(
    ("status", "result", "value"),
    [
        (200, [{"metric": {}, "value": [1767225600.0, "7"]}], 7.0),
        (200, [], None),
        (500, [], None),
    ],
)
async def test_the_queue_is_what_prometheus_says(status, result, value):
    asked = []

    async def answer(request):
        asked.append(request.query["query"])
        data = {"data": {"result": result}} if status == 200 else {"error": "overloaded"}
        return web.json_response(data, status=status)

    application = web.Application()
    application.router.add_get("/api/v1/query", answer)
    query = waiting_query("demo", "smollm2")
    async with TestServer(application) as server, aiohttp.ClientSession() as session:
        assert await instant_value(session, str(server.make_url("")).rstrip("/"), query) == value
    assert asked == [query]


async def test_a_prometheus_that_is_away_has_no_value(unused_tcp_port):
    async with aiohttp.ClientSession() as session:
        assert await instant_value(session, f"http://127.0.0.1:{unused_tcp_port}", "up") is None
