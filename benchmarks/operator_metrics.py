"""The operator's own metrics at one moment, and what happened between two moments."""

from __future__ import annotations

import time
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from e2e.kube import Kube
from e2e.leadership import leader


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The operator's metrics at one moment; buckets are cumulative, by upper bound in seconds."""

    buckets: dict[float, float]
    api_calls: float
    memory_bytes: float
    cpu_seconds: float
    at: float


async def leader_metrics(system: Kube) -> Snapshot:
    """The metrics of the operator pod that leads."""
    address = (await leader(system))["status"]["podIP"]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{address}:8080/metrics", raise_for_status=True) as response,
    ):
        text = await response.text()
    buckets: dict[float, float] = {}
    values: dict[str, float] = {}
    api_calls = 0.0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "openinference_operator_reconcile_seconds_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0.0) + sample.value
            if sample.name == "openinference_operator_api_calls_total":
                api_calls += sample.value
            values[sample.name] = sample.value
    return Snapshot(
        buckets=buckets,
        api_calls=api_calls,
        memory_bytes=values["process_resident_memory_bytes"],
        cpu_seconds=values["process_cpu_seconds_total"],
        at=time.monotonic(),
    )


def percentile(before: Snapshot, after: Snapshot, fraction: float) -> float:
    """Seconds, by linear interpolation within a bucket as PromQL's histogram_quantile does it."""
    bounds = sorted(after.buckets)
    counts = [after.buckets[bound] - before.buckets.get(bound, 0.0) for bound in bounds]
    wanted, lower, below = fraction * counts[-1], 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted and count > below:
            inside = (wanted - below) / (count - below)
            return lower if bound == float("inf") else lower + (bound - lower) * inside
        lower, below = bound, count
    return 0.0
