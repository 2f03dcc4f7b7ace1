"""Demand as Prometheus knows it, by instant queries.

An answer counts only when it is whole: every series a number, none of them stale, and no fewer
series than there are routers and engines that must have one. Everything else is `Lost`, which
names what is missing; it is never zero.

Each answer that does not come holds a worker up. So a server that keeps one waiting for a queue, a
query that is ours and cheap, is left alone for a while; a user's query may be slow by itself.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, time
from typing import Any

import aiohttp

from openinference_operator.scaling import Demand, Lost

TIMEOUT_SECONDS = 5.0
PAUSE_SECONDS = 30.0  # a sixth of a worker's time, while the autoscaler asks the routers
STALE_SECONDS = 60.0  # four scrapes at the usual 15 s; a vanished target ends sooner by itself
WAITING = "openinference_requests_waiting"
RUNNING = "openinference_requests_running"


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant vector."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Expected:
    """How many processes must have a series: those that have been Ready for some scrapes."""

    routers: int
    engines: int


class Silence(Lost):
    """No answer in time."""


class Prometheus:
    """One Prometheus server. An empty URL is allowed: then everything is lost."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._name = _without_password(self._url)
        self._silence, self._asked_again_at = Silence(""), 0.0

    async def queue(self, namespace: str, service: str, expected: Expected) -> Demand | Lost:
        """Requests that wait for and run in an InferenceService, over all its processes."""
        labels = selector(namespace, service)
        samples = await self.query(f'{{__name__=~"{WAITING}|{RUNNING}",{labels}}}')
        if isinstance(samples, Lost):
            if isinstance(samples, Silence) and monotonic() >= self._asked_again_at:
                self._silence, self._asked_again_at = samples, monotonic() + PAUSE_SECONDS
            return samples
        times = await self.query(f"timestamp({WAITING}{{{labels}}})")
        if isinstance(times, Lost):
            return times
        return read_queue(samples, times, expected, time())

    async def query(self, expression: str) -> list[Sample] | Lost:
        """The instant vector of an expression now."""
        if not self._url:
            return Lost("no Prometheus is configured")
        if monotonic() < self._asked_again_at:
            return self._silence
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with self._session.get(
                f"{self._url}/api/v1/query", params={"query": expression}, timeout=timeout
            ) as response:
                if response.status != 200:
                    return Lost(f"Prometheus answered {response.status} to {expression}")
                return read_vector(await response.json())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            kind = Silence if isinstance(error, TimeoutError) else Lost
            return kind(f"Prometheus at {self._name} does not answer: {_words(error)}")


def selector(namespace: str, service: str) -> str:
    """Labels of the series of one InferenceService, as PromQL writes them."""
    return f'inference_namespace="{namespace}",inference_service="{service}"'


def read_vector(payload: Any) -> list[Sample] | Lost:
    """Read the answer to an instant query; Lost unless it is a vector of numbers."""
    try:
        if payload["status"] != "success" or payload["data"]["resultType"] != "vector":
            return Lost(f"Prometheus answered no vector but {str(payload)[:200]}")
        samples = [
            Sample(entry["metric"], float(entry["value"][1])) for entry in payload["data"]["result"]
        ]
    except (KeyError, TypeError, ValueError, IndexError):
        return Lost(f"Prometheus answered what is no query result: {str(payload)[:200]}")
    broken = next((sample for sample in samples if not math.isfinite(sample.value)), None)
    if broken is not None:
        return Lost(f"a series is {broken.value}: {dict(broken.labels)}")
    return samples


def read_queue(
    samples: Sequence[Sample], times: Sequence[Sample], expected: Expected, now: float
) -> Demand | Lost:
    """Sum up the queue, if the series are complete and fresh."""
    waiting = [sample for sample in samples if sample.labels.get("__name__") == WAITING]
    running = [sample for sample in samples if sample.labels.get("__name__") == RUNNING]
    for component, wanted in (("router", max(1, expected.routers)), ("engine", expected.engines)):
        found = sum(sample.labels.get("component") == component for sample in waiting)
        if found < wanted:
            return Lost(f"Prometheus has {found} of {wanted} {component} series of {WAITING}")
    if len(running) < expected.engines:
        return Lost(f"Prometheus has {len(running)} of {expected.engines} series of {RUNNING}")
    age = now - min((sample.value for sample in times), default=0.0)
    if age > STALE_SECONDS:
        return Lost(f"the oldest series of {WAITING} is {age:.0f} s old")
    return Demand(
        waiting=sum(sample.value for sample in waiting),
        running=sum(sample.value for sample in running),
        source="Prometheus",
    )


def _without_password(url: str) -> str:
    """A URL as it may be shown in a status: nothing that stands before an @, well-formed or not."""
    return re.sub(r"^(\w+://)?.*@", r"\1", url)


def _words(error: Exception) -> str:
    """What an error says, unless that is the URL as it was given."""
    said = "" if isinstance(error, aiohttp.InvalidURL) else str(error)
    return said or type(error).__name__
