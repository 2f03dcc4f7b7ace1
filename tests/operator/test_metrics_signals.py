"""The autoscaler's metrics, read from a Prometheus at the border: a value, or lost and why."""

from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web
from openinference_operator.scaling import Demand, Lost, Reading
from openinference_operator.scaling_spec import Average, Latency, Value
from openinference_operator.signals.metrics import (
    KV_USAGE,
    PREFILL_SPEED,
    PROMPT_TOKENS,
    QUEUED_TOKENS,
    TPOT,
    TTFT,
    Metrics,
)
from openinference_operator.signals.prometheus import WAITING, Expected, Prometheus

BUSY, IDLE = Demand(3, 2, "Prometheus"), Demand(0, 0, "Prometheus")
LOST = Lost("Prometheus is away")
QUEUE = Average("Queue", Decimal(4))
KV = Average("KVCache", Decimal("0.8"))
BACKLOG = Average("BacklogSeconds", Decimal(2))
CUSTOM = Average("Prometheus", Decimal(10), "tickets")
WHOLE = Value("tickets", Decimal(10))
BOTH = Latency(Decimal(2), Decimal("0.05"))
FIRST = Latency(Decimal(2), None)

READINGS = {
    # name: (metric, told demand, series by name) -> value, words
    "queue": (QUEUE, BUSY, {}, 3, "3 waiting, 2 running"),
    "caches are summed": (KV, BUSY, {KV_USAGE: [0.5, 0.9]}, 1.4, "70 % of the KV cache of 2"),
    "backlog": (
        BACKLOG,
        BUSY,
        {QUEUED_TOKENS: [900, 100], PREFILL_SPEED: [200, 300], WAITING: []},
        4,
        "4 s (1000 tokens at 250 tokens/s)",
    ),
    "held requests count by the usual length": (
        BACKLOG,
        BUSY,
        {QUEUED_TOKENS: [0, 0], PREFILL_SPEED: [100, 100], WAITING: [5], PROMPT_TOKENS: [200]},
        10,
        "10 s (1000 tokens at 100 tokens/s)",
    ),
    "no backlog": (BACKLOG, BUSY, {QUEUED_TOKENS: [0, 0]}, 0, "no prompt waits"),
    "the worst latency": (BOTH, BUSY, {TTFT: [1], TPOT: [0.1]}, 2, "TTFT 1 s, TPOT 0.1 s"),
    "one that was not measured lets nothing go": (BOTH, BUSY, {TTFT: [0.2]}, 1, "no TPOT"),
    "nobody asks, so nobody waits": (FIRST, IDLE, {}, 0, "no TTFT within 60 s"),
    "a custom sum": (CUSTOM, BUSY, {"tickets": [12]}, 12, "12"),
    "a custom value while the rest is lost": (WHOLE, LOST, {"tickets": [12]}, 12, "12"),
}
LOSSES = {
    "the queue": (QUEUE, LOST, {}, "Prometheus is away"),
    "an engine is missing": (KV, BUSY, {KV_USAGE: [0.5]}, "has 1 of 2 series"),
    "all series of ours with the queue": (KV, LOST, {KV_USAGE: [0.5, 0.5]}, "is away"),
    "no speed yet": (BACKLOG, BUSY, {QUEUED_TOKENS: [9, 9]}, "no prefill speed is measured"),
    "no prompt yet": (
        BACKLOG,
        BUSY,
        {QUEUED_TOKENS: [0, 0], PREFILL_SPEED: [1, 1], WAITING: [5]},
        "5 requests are held, and no prompt was measured",
    ),
    "engines that answer nobody": (FIRST, BUSY, {}, "though 3 wait and 2 run"),
    "no series": (CUSTOM, BUSY, {}, "gives 0 series instead of one: tickets"),
    "several series": (CUSTOM, BUSY, {"tickets": [1, 2]}, "gives 2 series"),
    "not a number": (CUSTOM, BUSY, {"tickets": ["NaN"]}, "a series is nan"),
}


async def read(metric, told, series):
    """Read a metric of a service with two engines; an expression is known by the metric in it."""

    async def query(request):
        expression = request.query["query"]
        found = next((values for name, values in series.items() if name in expression), [])
        result = [{"metric": {}, "value": [0, str(value)]} for value in found]
        data = {"resultType": "vector", "result": result}
        return web.json_response({"status": "success", "data": data})

    app = web.Application()
    app.router.add_get("/api/v1/query", query)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, f"http://127.0.0.1:{runner.addresses[0][1]}")
        metrics = Metrics(prometheus, ("team-a", "demo"), Expected(1, 2), told, told)
        reading = await metrics.read(metric)
    await runner.cleanup()
    return reading


@pytest.mark.parametrize(
    ("metric", "told", "series", "value", "words"), READINGS.values(), ids=READINGS.keys()
)
async def test_a_metric_that_is_measured(metric, told, series, value, words):
    reading = await read(metric, told, series)
    assert isinstance(reading, Reading)
    assert reading.value == pytest.approx(value)
    assert words in reading.words


@pytest.mark.parametrize(("metric", "told", "series", "reason"), LOSSES.values(), ids=LOSSES.keys())
async def test_a_metric_that_is_lost(metric, told, series, reason):
    reading = await read(metric, told, series)
    assert isinstance(reading, Lost)
    assert reason in reading.reason
