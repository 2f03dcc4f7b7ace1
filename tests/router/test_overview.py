"""What the dashboard shows of router and cluster, and where its history comes from."""

import asyncio
import json

import aiohttp
import msgspec
import pytest
from aiohttp import web
from openinference_router.dashboard.history import NUM_SAMPLES, STEP_SECONDS, History, LiveHistory
from openinference_router.dashboard.prometheus import NUM_POINTS, QUERIES, PrometheusHistory


async def overviews(response):
    """The documents of an overview stream."""
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


def decoded(document: bytes) -> History:
    return msgspec.json.decode(document, type=History)


async def first_overview(client, url, accept=lambda _: True, **options) -> dict:
    async with (
        asyncio.timeout(60),
        client.get(f"{url}/dashboard/api/overview", **options) as response,
    ):
        assert response.status == 200
        async for overview in overviews(response):
            if accept(overview):
                return overview
    raise AssertionError("the stream ended")


async def test_overview_shows_what_the_router_and_what_the_cluster_know(
    api_server, start_router, make_routing, make_routed
):
    api_server.put_routing(make_routing(make_routed("http://127.0.0.1:9", name="demo-1a2b3c4d-0")))
    api_server.services.put_object("unrouted", spec={"suspend": True}, status={"replicas": 0})
    api_server.events.put_object(
        "e1",
        involvedObject={"kind": "InferenceService", "name": "unrouted"},
        type="Warning",
        reason="RolledBack",
        message="gave up",
        count=None,
        eventTime="2026-01-01T00:00:00Z",
    )
    router = start_router()
    await router.ready()
    async with aiohttp.ClientSession() as client:
        overview = await first_overview(client, router.url, lambda seen: seen["events"])
    demo, unrouted = overview["services"]
    assert (demo["name"], demo["model"], demo["status"]) == ("demo", "smollm2", None)
    assert demo["replicas"][0]["id"] == "demo-1a2b3c4d-0"
    assert demo["replicas"][0]["admitted"] is False
    assert (unrouted["name"], unrouted["suspended"]) == ("unrouted", True)
    assert overview["events"][0]["message"] == "gave up"
    assert overview["events"][0]["count"] == 1
    assert "involvedObject.kind=InferenceService" in str(api_server.events.queries)


async def test_nothing_more_is_watched_while_nobody_looks(api_server, start_router, until):
    router = start_router()
    await router.ready()
    assert api_server.services.queries == []
    url = f"{router.url}/dashboard/api/overview"
    async with aiohttp.ClientSession() as client, client.get(url):
        await until(lambda: api_server.services.watchers and api_server.events.watchers)
    await until(lambda: not api_server.services.watchers | api_server.events.watchers)


async def test_a_permission_that_is_missing_is_said_and_the_rest_is_shown(
    api_server, start_router, make_routing
):
    api_server.put_routing(make_routing())
    api_server.services.is_forbidden = True
    router = start_router()
    await router.ready()
    async with aiohttp.ClientSession() as client:
        overview = await first_overview(client, router.url, lambda seen: seen["trouble"])
    assert "may not list services; upgrade the chart" in overview["trouble"]
    assert [service["name"] for service in overview["services"]] == ["demo"]


async def test_without_a_cluster_the_page_still_shows_the_router(
    make_bench, make_routing, monkeypatch
):
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    bench = await make_bench(make_routing())
    overview = await first_overview(bench.client, bench.url, lambda seen: seen["trouble"])
    assert [service["name"] for service in overview["services"]] == ["demo"]


async def test_history_of_this_router_counts_tokens_and_forgets_deleted_services(
    make_bench, make_routing
):
    bench = await make_bench(make_routing())
    (service,) = bench.router.services()
    bench.history.sample()
    service.meter.num_tokens += 10 * STEP_SECONDS
    service.meter.first_token.observe(0.09)
    bench.history.sample()
    async with bench.client.get(f"{bench.url}/dashboard/api/history") as response:
        history = await response.json()
    assert history["source"] == "router"
    series = history["services"]["demo"]
    assert series["tokensPerSecond"] == [0, 10]
    assert series["firstTokenP50"][0] is None
    assert 0.05 < series["firstTokenP50"][1] <= 0.1
    bench.router.apply([])
    bench.history.sample()
    assert decoded(await bench.history.document()).services == {}


async def test_however_many_look_an_hour_is_written_once_per_sample(make_bench, make_routing):
    bench = await make_bench(make_routing())
    bench.history.sample()
    first, second = await bench.history.document(), await bench.history.document()
    assert first is second
    bench.history.sample()
    later = decoded(await bench.history.document())
    assert later.services["demo"]["tokensPerSecond"] == [0, 0]
    assert later.end > decoded(first).end


async def test_history_is_an_hour_at_most(make_bench, make_routing):
    bench = await make_bench(make_routing())
    for _ in range(NUM_SAMPLES + 3):
        bench.history.sample()
    history = decoded(await bench.history.document())
    assert {len(points) for points in history.services["demo"].values()} == {NUM_SAMPLES}


@pytest.fixture
async def played_prometheus(unused_tcp_port):
    """`asked` holds the queries; `status` is what it answers with."""

    class Played:
        status = 200
        url = f"http://127.0.0.1:{unused_tcp_port}"

        async def answer(self, request: web.Request) -> web.Response:
            self.asked.append(dict(request.query))
            end = float(request.query["end"])
            values = [[end - 30, "1.5"], [end - 15, "NaN"], [end, "3"]]
            series = {"metric": {"inference_service": "demo"}, "values": values}
            return web.json_response({"data": {"result": [series]}}, status=self.status)

    played = Played()
    played.asked = []
    app = web.Application()
    app.router.add_get("/api/v1/query_range", played.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    yield played
    await runner.cleanup()


async def test_history_from_prometheus_leaves_gaps_where_it_has_none(played_prometheus):
    async with aiohttp.ClientSession() as session:
        own = LiveHistory(list)
        history = PrometheusHistory(session, f"{played_prometheus.url}/", "team-a", own)
        document = await history.document()
        again = await history.document()
    read = decoded(document)
    points = read.services["demo"]["waiting"]
    assert read.source == "prometheus"
    assert len(points) == NUM_POINTS
    assert points[-3:] == [1.5, None, 3.0]
    assert not any(points[:-3])
    num_steps = len({id(document), id(again)})  # two, should the clock tick over in between
    assert len(played_prometheus.asked) == num_steps * len(QUERIES)
    assert all(
        'inference_namespace="team-a"' in asked["query"] for asked in played_prometheus.asked
    )


async def test_without_an_answer_of_prometheus_the_routers_own_history_is_shown(played_prometheus):
    played_prometheus.status = 503
    async with aiohttp.ClientSession() as session:
        history = PrometheusHistory(session, played_prometheus.url, "team-a", LiveHistory(list))
        read = decoded(await history.document())
    assert read.source == "router"
    assert "Prometheus does not answer: 503" in read.note
