"""Dashboards on a real cluster: what the router reads there, and what Prometheus is asked.

The second part is about every expression of the product: those of alerts, panels and pages, too.
"""

import asyncio
import json

import aiohttp

from docs.expressions import NAMES, expressions
from e2e.asks import SHORT_ASKS, Json
from e2e.inference_service import InferenceService
from e2e.kube import Kube
from e2e.reach import reach
from e2e.traffic import Traffic

# A family is told by the name before these, or in the older text format by the whole name.
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


async def test_the_dashboard_shows_the_cluster_and_the_last_hour(
    service: InferenceService, url: str, traffic: Traffic
) -> None:
    traffic.arrive(2.0, SHORT_ASKS)
    async with aiohttp.ClientSession() as client:
        overview = await _overview(client, url)
        history = await _history_with_tokens(client, url, service.name)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    (shown,) = overview["services"]
    assert overview["trouble"] == ""
    assert {each["type"] for each in shown["status"]["conditions"]} >= {"Ready", "Available"}
    assert "GroupCreated" in {event["reason"] for event in overview["events"]}
    assert history["source"] == "prometheus"


async def test_the_page_works_behind_the_api_servers_proxy(service: InferenceService) -> None:
    proxied = (
        f"/api/v1/namespaces/{service.kube.namespace}/services/openinference-router:http/proxy"
    )
    page = await service.kube.run("get", f"--raw={proxied}/dashboard/")
    assert 'src="main.js"' in page
    assert "export" in await service.kube.run("get", f"--raw={proxied}/dashboard/chart.js")


async def test_prometheus_knows_every_metric_that_any_expression_asks_for(
    service: InferenceService,
) -> None:
    """Scraped from an operator, a router and an engine that run."""
    sources = expressions()
    asked = {each for source in sources.values() for each in NAMES.findall("\n".join(source))}
    async with (
        reach(Kube("monitoring"), "prometheus", 9090) as url,
        aiohttp.ClientSession(f"{url}/api/v1/") as client,
    ):
        for query in (query for source in sources.values() for query in source):
            answer = await client.get("query", params={"query": query})
            assert answer.status == 200, f"{query}: {await answer.text()}"
        async with asyncio.timeout(120):
            while unknown := asked - await _exported(client):
                print("not scraped yet, or never:", unknown)
                await asyncio.sleep(1)


async def _exported(client: aiohttp.ClientSession) -> set[str]:
    """Every name of a series that a scrape told of, whether it had samples or none as yet."""
    async with client.get("metadata") as response:
        families = (await response.json())["data"]
    return {
        family + suffix
        for family, entries in families.items()
        for entry in entries
        for suffix in ("", *SUFFIXES.get(entry["type"], ()))
    }


async def _overview(client: aiohttp.ClientSession, url: str) -> Json:
    """The first one that knows conditions and events."""
    async with asyncio.timeout(120), client.get(f"{url}/dashboard/api/overview") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                overview: Json = json.loads(line[6:])
                if overview["events"] and all(each["status"] for each in overview["services"]):
                    return overview
    raise AssertionError("the stream ended")


async def _history_with_tokens(client: aiohttp.ClientSession, url: str, service: str) -> Json:
    """The first one in which Prometheus has seen tokens of the service."""
    async with asyncio.timeout(120):
        while True:
            async with client.get(f"{url}/dashboard/api/history") as response:
                history: Json = await response.json()
            series = history["services"].get(service, {})
            if any(series.get("tokensPerSecond", ())) and any(series.get("firstTokenP50", ())):
                return history
            await asyncio.sleep(2)
