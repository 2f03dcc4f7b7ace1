"""Streams leave a group that would not finish them: it drains too soon, or its engine is stuck."""

import pytest
from msgspec.structs import replace
from played_engine import DONE, chunk, says, speaks


async def drain_by_engine(bench, engine, routing) -> None:
    engine.load["draining"] = True


async def drain_by_operator(bench, engine, routing) -> None:
    first, *others = routing.groups
    groups = (replace(first, state="Draining"), *others)
    bench.router.apply([replace(routing, groups=groups, generation=2)])


async def get_stuck(bench, engine, routing) -> None:
    engine.load["ready"] = False


@pytest.fixture
async def leaving(play, make_bench, make_routing, make_routed):
    """A slow stream on the first of two groups, and what makes that group a place to leave."""

    async def begin(drain_timeout_seconds: float, max_tokens: int) -> tuple:
        slow = await play(usual=speaks(0.02, max_tokens - 1))
        other = await play(usual=says(chunk("!", 99, "stop"), DONE))
        other.load["running"] = 1
        routing = make_routing(
            make_routed(slow.address, "demo-old-0"),
            make_routed(other.address, "demo-new-0"),
            drain_timeout_seconds=drain_timeout_seconds,
        )
        bench = await make_bench(routing)
        await bench.admitted(2)
        stream = bench.chat(stream=True, max_tokens=max_tokens)
        response = await stream.__aenter__()
        for _ in range(5):
            await response.content.readuntil(b"\n\n")
        return bench, slow, other, routing, response

    return begin


@pytest.mark.parametrize("leave", [drain_by_engine, drain_by_operator, get_stuck])
async def test_a_stream_moves_before_its_group_goes(leaving, leave):
    """Two thousand tokens take forty seconds; the drain would cut them after eleven."""
    bench, slow, other, routing, response = await leaving(11, 2000)
    await leave(bench, slow, routing)
    text = (await response.read()).decode()
    assert text.endswith("data: [DONE]\n\n")
    assert len(other.bodies) == 1
    moved = other.bodies[0]["openinference"]["resume"]["token_ids"]["0"]
    assert moved == list(range(len(moved)))
    assert len(moved) >= 5
    is_at_fault = leave is get_stuck
    assert bench.router.services()[0].groups["demo-old-0"].is_ejected == is_at_fault


async def test_a_stream_that_ends_before_the_drain_does_stays(leaving):
    bench, slow, other, routing, response = await leaving(60, 60)
    await drain_by_engine(bench, slow, routing)
    await bench.admitted(1)
    assert (await response.read()).endswith(DONE)
    assert other.bodies == []


async def test_a_stream_stays_where_no_other_group_has_room(leaving):
    bench, slow, other, routing, response = await leaving(5, 60)
    other.load["running"] = 9
    await bench.group_running("demo-new-0", 9)
    await drain_by_engine(bench, slow, routing)
    assert (await response.read()).endswith(DONE)
    assert other.bodies == []
