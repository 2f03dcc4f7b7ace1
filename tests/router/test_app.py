"""The internal face: what operator, Prometheus and kubelet see."""

import asyncio
import json

import pytest

HEADERS = {"x-openinference-token": "test-token"}


async def next_state(response) -> dict:
    async with asyncio.timeout(60):
        event = await response.content.readuntil(b"\n\n")
    assert event.startswith(b"event: state\ndata: ")
    return json.loads(event.split(b"data: ")[1])


@pytest.mark.parametrize("headers", [{}, {"x-openinference-token": "wrong"}])
async def test_state_wants_the_token(make_bench, headers):
    bench = await make_bench()
    async with bench.client.get(f"{bench.internal_url}/state", headers=headers) as response:
        assert response.status == 401


async def test_state_tells_who_is_admitted_and_who_waits(
    play, make_bench, make_routing, make_routed
):
    engine = await play()
    engine.load["ready"] = False
    bench = await make_bench(make_routing(make_routed(engine.address), generation=7))
    held = asyncio.create_task(bench.chat().__aenter__())
    await bench.held(1)
    async with bench.client.get(f"{bench.internal_url}/state", headers=HEADERS) as response:
        state = await next_state(response)
        assert state == {
            "router": "router-0",
            "draining": False,
            "services": {
                "demo": {
                    "generation": 7,
                    "held": 1,
                    "groups": {
                        "demo-1a2b3c4d-0": {
                            "admitted": False,
                            "inFlight": 0,
                            "waiting": 0,
                            "running": 0,
                        }
                    },
                }
            },
        }
        held.cancel()
        while state["services"]["demo"]["held"]:
            state = await next_state(response)


async def test_state_beats_every_second_while_nothing_happens(make_bench):
    bench = await make_bench()
    async with bench.client.get(f"{bench.internal_url}/state", headers=HEADERS) as response:
        first, second = await next_state(response), await next_state(response)
    assert first == second


async def test_ready_is_synced_and_not_draining(make_bench):
    bench = await make_bench()

    async def status() -> int:
        async with bench.client.get(f"{bench.internal_url}/ready") as response:
            return response.status

    assert await status() == 200
    bench.router.drain()
    assert await status() == 503
    bench.router.is_draining = bench.router.is_synced = False
    assert await status() == 503


async def test_metrics_count_what_is_held_here_and_how_requests_ended(make_bench, make_routing):
    bench = await make_bench(make_routing())
    held = asyncio.create_task(bench.chat().__aenter__())
    await bench.held(1)
    async with bench.chat(model="gpt-4") as response:
        assert response.status == 404
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        text = await response.text()
    labels = 'component="router",inference_namespace="team-a",inference_service="demo"'
    assert f"openinference_requests_waiting{{{labels}}} 1.0" in text
    refused = 'code="404",inference_namespace="team-a",inference_service=""'
    assert f"openinference_router_requests_total{{{refused}}} 1.0" in text
    held.cancel()


async def test_a_deleted_service_leaves_no_series_of_waiting(make_bench, make_routing):
    bench = await make_bench(make_routing())
    bench.router.apply([])
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        assert 'inference_service="demo"' not in await response.text()
