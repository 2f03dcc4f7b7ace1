"""Requests that wait in the router: how many, how long, what they hear, and what ends it."""

import asyncio
import json

import pytest
from aiohttp import web
from openinference_router.wire import QueuePolicy
from played_engine import COMPLETE, DONE, speaks, whole


async def test_requests_beyond_the_bounded_line_are_429(play, make_bench, make_routing):
    bench = await make_bench(make_routing(queue=QueuePolicy(max_requests=2)))
    waiting = [asyncio.create_task(bench.chat().__aenter__()) for _ in range(2)]
    await bench.held(2)
    async with bench.chat() as response:
        assert response.status == 429
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "queue_full"
    for task in waiting:
        task.cancel()


async def test_no_replica_within_the_cold_start_budget_is_503(make_bench, make_routing):
    queue = QueuePolicy(cold_start_timeout_seconds=0.1)
    bench = await make_bench(make_routing(queue=queue))
    async with bench.chat(stream=True) as response:
        assert response.status == 503
        assert response.headers["Retry-After"]


async def test_requests_wait_for_the_first_replica_and_streams_hear_comments(
    play, make_bench, make_routing, make_routed
):
    engine = await play(usual=COMPLETE)
    bench = await make_bench(make_routing())
    async with bench.chat(stream=True) as response:
        assert (await response.content.readuntil(b"\n\n")).startswith(b": waiting")
        assert bench.demo.held == 1
        bench.router.apply([make_routing(make_routed(engine.address), generation=2)])
        assert (await response.read()).endswith(DONE)


async def test_a_budget_that_ends_after_the_first_comment_ends_the_stream_with_an_error(
    make_bench, make_routing
):
    bench = await make_bench(make_routing())
    over = QueuePolicy(cold_start_timeout_seconds=0.1)
    async with bench.chat(stream=True) as response:
        assert (await response.content.readuntil(b"\n\n")).startswith(b": waiting")
        bench.router.apply([make_routing(queue=over, generation=2)])
        events = (await response.read()).split(b"\n\n")
    assert json.loads(events[-3][6:])["error"]["code"] == "no_capacity"


async def test_a_client_that_goes_away_leaves_the_line_at_once(make_bench, make_routing):
    bench = await make_bench(make_routing())
    task = asyncio.create_task(bench.chat().__aenter__())
    await bench.held(1)
    task.cancel()
    await bench.held(0)


async def test_at_most_seats_and_look_ahead_are_inside_an_engine(
    play, make_bench, make_routing, make_routed, until
):
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return await whole(request)

    engine = await play(usual=slow)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()

    async def ask() -> int:
        async with bench.chat() as response:
            return response.status

    tasks = [asyncio.create_task(ask()) for _ in range(12)]
    await bench.held(7)
    await until(lambda: engine.num_open == 5)
    release.set()
    assert await asyncio.gather(*tasks) == [200] * 12


async def test_a_deadline_ends_the_wait_and_nothing_else(
    play, make_bench, make_routing, make_routed
):
    headers = {"x-openinference-timeout-seconds": "0.2"}
    empty = await make_bench(make_routing())
    async with empty.chat(headers=headers) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "deadline"
    engine = await play(usual=speaks(0.1, 5))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True, headers=headers) as response:
        assert (await response.read()).endswith(DONE)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
async def test_a_deadline_that_is_no_time_is_refused(make_bench, make_routing, seconds):
    bench = await make_bench(make_routing())
    async with bench.chat(headers={"x-openinference-timeout-seconds": seconds}) as response:
        assert response.status == 400
        assert seconds in (await response.json())["error"]["message"]
