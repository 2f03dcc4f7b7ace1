"""What a worker pod exports to Prometheus: that its ranks are there, and how large they are.

What the group computes is exported by pod 0 alone (`server.metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from openinference_engine.config import ServerConfig
from openinference_engine.ranks.local import RankState


class RankMetrics(Collector):
    """Asks for the state of the pod's ranks whenever it is scraped."""

    def __init__(self, server: ServerConfig, states: Callable[[], Iterable[RankState]]) -> None:
        self._place = {"inference_namespace": server.namespace, "inference_service": server.service}
        self._states = states

    def collect(self) -> Iterable[Metric]:
        labels = [*self._place, "rank"]
        ready = GaugeMetricFamily(
            "openinference_rank_ready",
            "Whether a rank of a worker pod has joined its group and loaded.",
            labels=labels,
        )
        resident = GaugeMetricFamily(
            "openinference_rank_resident_memory_bytes",
            "What the process of a rank of a worker pod has in memory.",
            labels=labels,
        )
        for state in self._states():
            place = [*self._place.values(), str(state.rank)]
            ready.add_metric(place, state.is_ready)
            resident.add_metric(place, state.resident_bytes)
        return ready, resident
