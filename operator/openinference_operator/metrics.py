"""The operator's own metrics. Names are part of the product: dashboards and alerts read them."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

RECONCILE_SECONDS = Histogram(
    "openinference_operator_reconcile_seconds",
    "Time of one reconciliation of an InferenceService or of a namespace's router.",
    ["key", "result"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
QUEUE_DEPTH = Gauge(
    "openinference_operator_queue_depth",
    "Keys that wait for a worker.",
)
API_CALLS = Counter(
    "openinference_operator_api_calls",
    "Calls of the API server; code 0 is no answer.",
    ["verb", "kind", "code"],
)
IS_LEADER = Gauge(
    "openinference_operator_is_leader",
    "1 on the replica whose workers run.",
)
LOOP_LAG_SECONDS = Gauge(
    "openinference_operator_loop_lag_seconds",
    "How late the event loop last was; a blocking call shows here.",
)

LAG_PERIOD_SECONDS = 1.0


class ConditionMetrics(Collector):
    """The conditions of all InferenceServices, read at each scrape.

    Every replica of the operator watches and so tells the same: queries take the maximum.
    """

    def __init__(self, services: Callable[[], Iterable[Mapping[str, Any]]]) -> None:
        self._services = services

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "openinference_operator_condition",
            "1 for each condition of an InferenceService, as its status says it",
            labels=("inference_namespace", "inference_service", "condition", "status", "reason"),
        )
        for service in self._services():
            metadata = service["metadata"]
            for entry in (service.get("status") or {}).get("conditions") or []:
                labels = (metadata["namespace"], metadata["name"])
                family.add_metric((*labels, entry["type"], entry["status"], entry["reason"]), 1)
        yield family


async def measure_loop_lag() -> None:
    """Feed LOOP_LAG_SECONDS for ever."""
    while True:
        before = monotonic()
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        LOOP_LAG_SECONDS.set(max(0.0, monotonic() - before - LAG_PERIOD_SECONDS))
