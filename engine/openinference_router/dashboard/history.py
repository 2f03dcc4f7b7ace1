"""The last hour of each service as this router saw it, one sample every few seconds.

Kept whether or not somebody looks, since whoever comes wants to know what was before: 20 KiB per
service. Where several routers share the traffic each knows its own part only; Prometheus, where
there is one, knows the whole (`prometheus`).
"""

import asyncio
import math
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from openinference_router.meter import FIRST_TOKEN_SECONDS, TOKEN_SECONDS, Meter, quantile
from openinference_router.service import Service

LENGTH_SECONDS = 3600
STEP_SECONDS = 5
NUM_SAMPLES = LENGTH_SECONDS // STEP_SECONDS
WINDOW_SAMPLES = 12
"""Quantiles are over a minute: five seconds of quiet traffic hold too few observations."""

SERIES = (
    "tokensPerSecond",
    "waiting",
    "running",
    "replicas",
    "firstTokenP50",
    "firstTokenP95",
    "perTokenP50",
    "perTokenP95",
)

Points = list[float | None]


class History(msgspec.Struct, frozen=True, rename="camel"):
    """Series by service and name, all of one length; the last point is of `end` (Unix time)."""

    source: str
    """`router` or `prometheus`."""
    note: str
    end: float
    step_seconds: float
    services: Mapping[str, Mapping[str, Points]]


class LiveHistory:
    """Rings of samples by service."""

    def __init__(
        self, services: Callable[[], Iterable[Service]], clock: Callable[[], float] = time.time
    ) -> None:
        self._services = services
        self._clock = clock
        self._rings: dict[str, _Ring] = {}
        self._sampled_at = clock()
        self._document = b""

    async def run(self) -> None:
        """Sample for ever."""
        while True:
            self.sample()
            await asyncio.sleep(STEP_SECONDS)

    def sample(self) -> None:
        services = {service.name: service for service in self._services()}
        self._rings = {name: self._rings.get(name) or _Ring() for name in services}
        for name, service in services.items():
            self._rings[name].append(service)
        self._sampled_at = self._clock()
        self._document = b""

    async def document(self) -> bytes:
        """A History as JSON, written once per sample however many look."""
        if not self._document:
            self._document = msgspec.json.encode(self.read())
        return self._document

    def read(self, note: str = "") -> History:
        services = {name: ring.points() for name, ring in self._rings.items()}
        return History("router", note, self._sampled_at, STEP_SECONDS, services)


class _Reading:
    """A service's meter as it stood at one sample."""

    def __init__(self, meter: Meter) -> None:
        self.num_tokens = meter.num_tokens
        self.first_token = tuple(meter.first_token.counts)
        self.per_token = tuple(meter.per_token.counts)


class _Ring:
    """One service's samples, oldest first; float32, NaN where there was nothing to measure."""

    def __init__(self) -> None:
        self._series = {name: array("f") for name in SERIES}
        self._readings: deque[_Reading] = deque(maxlen=WINDOW_SAMPLES + 1)

    def append(self, service: Service) -> None:
        self._readings.append(_Reading(service.meter))
        for name, value in {**self._measured(), **_counted(service)}.items():
            series = self._series[name]
            series.append(math.nan if value is None else value)
            del series[: max(0, len(series) - NUM_SAMPLES)]

    def points(self) -> dict[str, Points]:
        return {name: list(map(_rounded, series)) for name, series in self._series.items()}

    def _measured(self) -> dict[str, float | None]:
        oldest, newest = self._readings[0], self._readings[-1]
        before = self._readings[max(0, len(self._readings) - 2)]
        first_token = _differences(newest.first_token, oldest.first_token)
        per_token = _differences(newest.per_token, oldest.per_token)
        return {
            "tokensPerSecond": (newest.num_tokens - before.num_tokens) / STEP_SECONDS,
            "firstTokenP50": quantile(0.5, FIRST_TOKEN_SECONDS, first_token),
            "firstTokenP95": quantile(0.95, FIRST_TOKEN_SECONDS, first_token),
            "perTokenP50": quantile(0.5, TOKEN_SECONDS, per_token),
            "perTokenP95": quantile(0.95, TOKEN_SECONDS, per_token),
        }


def _counted(service: Service) -> dict[str, float]:
    return {
        "waiting": service.held,
        "running": service.in_flight,
        "replicas": service.num_admitted,
    }


def _differences(later: Sequence[int], earlier: Sequence[int]) -> list[int]:
    return [after - before for after, before in zip(later, earlier, strict=True)]


def _rounded(value: float) -> float | None:
    """JSON has no NaN; and no screen shows a seventh digit."""
    return None if math.isnan(value) else float(f"{value:.4g}")
