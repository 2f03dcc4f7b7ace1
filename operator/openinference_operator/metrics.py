"""The operator's own metrics. Names are part of the product: dashboards and alerts read them."""

import asyncio
from time import monotonic

from prometheus_client import Counter, Gauge, Histogram

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


async def measure_loop_lag() -> None:
    """Feed LOOP_LAG_SECONDS for ever."""
    while True:
        before = monotonic()
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        LOOP_LAG_SECONDS.set(max(0.0, monotonic() - before - LAG_PERIOD_SECONDS))
