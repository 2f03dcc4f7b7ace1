"""How many replicas demand asks for: the semantics of HorizontalPodAutoscaler v2, pure.

With N the replicas asked for last (those that start count as capacity, so they are not asked for
twice) and n those that are routable, a metric proposes

    summed over the service, w, with a wanted average t:    ratio = w / (t * N)
        N            if |ratio - 1| <= tolerance, or if w > t * n on the way down
        ceil(w / t)  otherwise
    of the service as a whole, v, with a wanted value t:    ratio = v / t
        N                     if |ratio - 1| <= tolerance, or if n < N on the way down
        max(N, ceil(n * ratio))  on the way up, a ratio of latencies counting at most 2
        ceil(N * ratio)          on the way down

The largest proposal wins; `pacing` then says how fast the number may follow it, as
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ describes. We differ
in four ways, each towards not losing work:

- A scale-down leaves seats for the requests that run and wait: a fleet that is busy but has no
  queue is not idle.
- Replicas that are not routable yet never cause one.
- A lost metric holds the number (never reads as zero), and counts in the window as a vote to hold;
  while nobody knows what waits and runs, nothing shrinks.
- One latency says little about how many replicas would mend it, so a step at most doubles.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Literal, TypeAlias

from openinference_operator.pacing import Memory, pace, remember, remember_change
from openinference_operator.reasons import Reason
from openinference_operator.scaling_spec import Autoscaling, Average, Latency, Metric, Value

Source: TypeAlias = Literal["Prometheus", "Routers"]

LARGEST_LATENCY_RATIO = 2.0  # one slow start can read tens of times the target


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that wait for and run in a service; both need seats."""

    waiting: float
    running: float
    source: Source


@dataclass(frozen=True, slots=True)
class Reading:
    """What a metric measured: a sum, a value, or of latencies the worst multiple of its target."""

    value: float
    words: str
    source: Source = "Prometheus"


@dataclass(frozen=True, slots=True)
class Lost:
    """A metric without a value that can be trusted, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the service has: replicas asked for last, those routable, and seats per replica."""

    desired: int
    routable: int
    seats: int


@dataclass(frozen=True, slots=True)
class Input:
    """One metric as it was evaluated; without a proposal when it is lost."""

    metric: Metric
    reading: Reading | Lost
    proposal: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas to ask for, and why.

    `limited_by` and `is_stabilized` tell which of the later steps changed the proposal.
    """

    desired: int
    reason: str
    message: str
    inputs: tuple[Input, ...]
    is_stabilized: bool = False
    limited_by: Reason | None = None

    @property
    def is_active(self) -> bool:
        """Whether at least one metric had a value."""
        return any(entry.proposal is not None for entry in self.inputs)

    @property
    def is_partly_lost(self) -> bool:
        """Whether at least one metric had no value."""
        return any(entry.proposal is None for entry in self.inputs)

    @property
    def uses_fallback(self) -> bool:
        """Whether a value came from the routers because Prometheus had none."""
        return any(
            isinstance(entry.reading, Reading) and entry.reading.source == "Routers"
            for entry in self.inputs
        )


def decide(
    autoscaling: Autoscaling,
    readings: Sequence[Reading | Lost],
    demand: Demand | Lost,
    capacity: Capacity,
    memory: Memory,
    now: float,
) -> tuple[Decision, Memory]:
    """Evaluate once. `readings` holds one entry per metric of `autoscaling`, in its order."""
    inputs = tuple(
        _evaluate(metric, reading, capacity, autoscaling)
        for metric, reading in zip(autoscaling.metrics, readings, strict=True)
    )
    wanted = _with_seats(_largest(inputs, capacity.desired), demand, capacity)
    memory = remember(memory, wanted, autoscaling, is_idle=_is_idle(demand), now=now)
    step = pace(wanted, capacity.desired, memory, autoscaling, now)
    decision = Decision(
        desired=step.allowed,
        reason=_reason(inputs, step.allowed, capacity.desired),
        message=_message(inputs, step.allowed, capacity.desired, wanted),
        inputs=inputs,
        is_stabilized=step.is_stabilized,
        limited_by=step.limited_by,
    )
    return decision, remember_change(memory, step.allowed - capacity.desired, now)


def queue_reading(demand: Demand) -> Reading:
    """The demand as the metric Queue reads it."""
    words = f"{demand.waiting:g} waiting, {demand.running:g} running"
    return Reading(demand.waiting, words, demand.source)


def _is_idle(demand: Demand | Lost) -> bool:
    return isinstance(demand, Demand) and not demand.waiting and not demand.running


def _with_seats(wanted: int, demand: Demand | Lost, capacity: Capacity) -> int:
    """Not fewer than the requests need, and not zero while one waits."""
    current = capacity.desired
    if isinstance(demand, Lost):
        return max(wanted, current)
    if current == 0:
        return max(wanted, min(1, ceil(demand.waiting)))
    seats_needed = ceil((demand.running + demand.waiting) / capacity.seats)
    return max(wanted, min(current, seats_needed))


def _evaluate(
    metric: Metric, reading: Reading | Lost, capacity: Capacity, autoscaling: Autoscaling
) -> Input:
    if isinstance(reading, Lost):
        return Input(metric, reading, None)
    if isinstance(metric, Average):
        return Input(metric, reading, _by_average(metric, reading, capacity, autoscaling))
    target = Decimal(1) if isinstance(metric, Latency) else metric.target
    ratio = reading.value / float(target)
    if isinstance(metric, Latency):
        ratio = min(ratio, LARGEST_LATENCY_RATIO)
    return Input(metric, reading, _by_ratio(ratio, capacity, autoscaling))


def _by_average(
    metric: Average, reading: Reading, capacity: Capacity, autoscaling: Autoscaling
) -> int:
    target, current = float(metric.target), capacity.desired
    if current and _is_tolerated(reading.value / (target * current), autoscaling):
        return current
    proposal = ceil(reading.value / target)
    if proposal < current and reading.value > target * capacity.routable:
        return current
    return proposal


def _by_ratio(ratio: float, capacity: Capacity, autoscaling: Autoscaling) -> int:
    current, routable = capacity.desired, capacity.routable
    if _is_tolerated(ratio, autoscaling):
        return current
    if ratio > 1:
        return max(current, ceil(routable * ratio))
    return current if routable < current else ceil(current * ratio)


def _is_tolerated(ratio: float, autoscaling: Autoscaling) -> bool:
    rules = autoscaling.scale_up if ratio > 1 else autoscaling.scale_down
    return abs(ratio - 1) <= rules.tolerance


def _largest(inputs: Iterable[Input], current: int) -> int:
    """The largest proposal; a lost metric votes for the present number."""
    return max(current if entry.proposal is None else entry.proposal for entry in inputs)


def _reason(inputs: Iterable[Input], desired: int, current: int) -> str:
    if all(entry.proposal is None for entry in inputs):
        return "MetricsUnavailable"
    if desired == current:
        return "Holding"
    return "ScalingUp" if desired > current else "ScalingDown"


def _message(inputs: Iterable[Input], desired: int, current: int, wanted: int) -> str:
    seen = "; ".join(describe(entry) for entry in inputs)
    change = f"{current}" if desired == current else f"{current} -> {desired}"
    return f"replicas: {change}, metrics ask for {wanted} ({seen})"


def describe(entry: Input) -> str:
    """One metric in words, with its numbers."""
    if isinstance(entry.reading, Lost):
        return f"{entry.metric.type} lost: {entry.reading.reason}"
    return f"{entry.metric.type}: {entry.reading.words}, target {describe_target(entry.metric)}"


def describe_target(metric: Metric) -> str:
    """What a metric shall be, with its unit."""
    match metric:
        case Average("Queue"):
            return f"{_plain(metric.target)} waiting per replica"
        case Average("KVCache"):
            return f"{_plain(metric.target * 100)} % per replica"
        case Average("BacklogSeconds"):
            return f"{_plain(metric.target)} s per replica"
        case Average():
            return f"{_plain(metric.target)} per replica"
        case Value():
            return _plain(metric.target)
        case Latency():
            wanted = (("TTFT", metric.ttft), ("TPOT", metric.tpot))
            return ", ".join(f"{name} {_plain(time)} s" for name, time in wanted if time)


def _plain(number: Decimal) -> str:
    return f"{number.normalize():f}"
