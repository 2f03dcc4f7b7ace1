"""The autoscaler of all services: asks the signals when it is time, and remembers the windows.

The decision itself is made by `scaling`, without clocks and networks. Between two evaluations the
last decision stands. All that is held here may be lost; a new leader begins with new windows.
"""

from collections.abc import Hashable
from dataclasses import dataclass

from openinference_operator import timestamps
from openinference_operator.groups import Group
from openinference_operator.manifests.engine import seats
from openinference_operator.observe import Observed
from openinference_operator.pacing import Memory
from openinference_operator.scaling import Capacity, Decision, Demand, Lost, Reading, decide
from openinference_operator.scaling_spec import Autoscaling
from openinference_operator.signals.metrics import Metrics
from openinference_operator.signals.prometheus import Expected, Prometheus
from openinference_operator.spec import InferenceService

METRICS_GRACE_SECONDS = 30.0  # two scrapes at the usual 15 s


@dataclass(slots=True)
class _Record:
    """What is remembered of one service between evaluations."""

    memory: Memory
    evaluated_at: float = 0.0
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The decision that stands, and when the next evaluation is due."""

    decision: Decision | None
    next_in_seconds: float


class Autoscaler:
    """Evaluates services one at a time."""

    def __init__(self, prometheus: Prometheus) -> None:
        self._prometheus = prometheus
        self._records: dict[Hashable, _Record] = {}

    def forget(self, key: Hashable) -> None:
        """Drop what is remembered of a service that is gone or not scaled."""
        self._records.pop(key, None)

    def forget_all(self) -> None:
        """Drop everything, because another leader may have decided since."""
        self._records.clear()

    async def evaluate(
        self,
        key: Hashable,
        service: InferenceService,
        autoscaling: Autoscaling,
        observed: Observed,
        recorded: int,
        now: float,
    ) -> Standing:
        """Decide, if it is time or a request waits at zero replicas.

        `recorded` is the number asked for last, as the status has it.
        """
        record = self._records.setdefault(key, _Record(Memory.begin(recorded, now)))
        due_in = record.evaluated_at + autoscaling.interval_seconds - now
        wakes = recorded == 0 and observed.routers.held > 0
        if due_in > 0 and not wakes:
            return Standing(record.decision, due_in)
        demand, readings = await self._measure(service, autoscaling, observed, now)
        capacity = Capacity(recorded, _routable(observed), seats(service))
        record.decision, record.memory = decide(
            autoscaling, readings, demand, capacity, record.memory, now
        )
        record.evaluated_at = now
        return Standing(record.decision, autoscaling.interval_seconds)

    async def _measure(
        self, service: InferenceService, autoscaling: Autoscaling, observed: Observed, now: float
    ) -> tuple[Demand | Lost, list[Reading | Lost]]:
        """Ask Prometheus, and the routers for the demand where it has no answer."""
        held, expected = observed.routers.held, _expected(observed, now)
        place = (service.namespace, service.name)
        told: Demand | Lost = Lost("nothing runs")
        demand: Demand | Lost = Demand(held, 0, "Routers")
        # Where nothing runs, a router knows sooner than the next scrape that somebody waits.
        if not held or observed.groups:
            demand = told = await self._prometheus.queue(*place, expected)
        if isinstance(demand, Lost):
            demand = _first_known(demand, _told_by_routers(observed))
        metrics = Metrics(self._prometheus, place, expected, told, demand)
        return demand, [await metrics.read(metric) for metric in autoscaling.metrics]


def _first_known(lost: Lost, fallback: Demand | Lost) -> Demand | Lost:
    if isinstance(fallback, Demand):
        return fallback
    return Lost(f"{lost.reason}; {fallback.reason}")


def _told_by_routers(observed: Observed) -> Demand | Lost:
    """Demand as the routers themselves report it; whole, or lost."""
    routers = observed.routers
    if not routers.ready:
        return Lost("no router pod is Ready")
    if routers.silent:
        return Lost(f"router pods do not tell their state: {', '.join(routers.silent)}")
    return Demand(
        waiting=routers.held + sum(group.waiting for group in observed.groups),
        running=sum(_running(group) for group in observed.groups),
        source="Routers",
    )


def _running(group: Group) -> int:
    """Requests that run in a group; what routers have inside it counts before it says so itself."""
    return max(group.running, (group.in_flight or 0) - group.waiting)


def _expected(observed: Observed, now: float) -> Expected:
    pods = [group.pod for group in observed.groups if group.pod is not None and group.is_ready]
    return Expected(
        routers=sum(_long_ready(router.ready_since, now) for router in observed.routers.ready),
        engines=sum(_long_ready(pod.ready_since, now) for pod in pods),
    )


def _long_ready(since: str, now: float) -> bool:
    """Whether a pod has been Ready long enough to have been scraped."""
    return bool(since) and now - timestamps.from_text(since) >= METRICS_GRACE_SECONDS


def _routable(observed: Observed) -> int:
    return sum(group.is_routable and not group.is_going for group in observed.groups)
