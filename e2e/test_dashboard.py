"""The dashboard on a real cluster: what the router may read there, and an hour from Prometheus."""

import asyncio
import json

import aiohttp

from e2e.asks import SHORT_ASKS, Json
from e2e.inference_service import InferenceService
from e2e.traffic import Traffic


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


async def _overview(client: aiohttp.ClientSession, url: str) -> Json:
    """The first one that knows conditions and events."""
    async with asyncio.timeout(30), client.get(f"{url}/dashboard/api/overview") as response:
        async for line in response.content:
            if line.startswith(b"data: "):
                overview: Json = json.loads(line[6:])
                if overview["events"] and all(each["status"] for each in overview["services"]):
                    return overview
    raise AssertionError("the stream ended")


async def _history_with_tokens(client: aiohttp.ClientSession, url: str, service: str) -> Json:
    """The first one in which Prometheus has seen tokens of the service."""
    async with asyncio.timeout(60):
        while True:
            async with client.get(f"{url}/dashboard/api/history") as response:
                history: Json = await response.json()
            series = history["services"].get(service, {})
            if any(series.get("tokensPerSecond", ())) and any(series.get("firstTokenP50", ())):
                return history
            await asyncio.sleep(2)
