"""How many replicas demand asks for: the semantics of HorizontalPodAutoscaler v2, pure.

Per metric, with w the value summed over the service, t the wanted average and N the replicas asked
for last (those that start count as capacity, so they are not asked for twice):

    ratio    = w / (t * N)
    proposal = N            if |ratio - 1| <= tolerance
               ceil(w / t)  otherwise

The largest proposal wins; `pacing` then says how fast the number may follow it, as
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ describes. We differ in
three ways, each towards not losing work:

- A scale-down by Queue leaves seats for the requests that run and wait: a fleet that is busy but
  has no queue is not idle.
- Replicas that are not routable yet never cause one: while those that are routable have more than
  the target waiting, the number holds.
- A lost metric holds the number (never reads as zero), and counts in the window as a vote to hold.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Literal

from openinference_operator.pacing import Memory, pace, remember, remember_change
from openinference_operator.reasons import Reason
from openinference_operator.scaling_spec import Autoscaling, Metric


@dataclass(frozen=True, slots=True)
class Demand:
    """What a metric measured, summed over the service; `running` requests need seats."""

    waiting: float
    running: float
    source: Literal["Prometheus", "Routers"]


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
    demand: Demand | Lost
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
    def uses_fallback(self) -> bool:
        """Whether a value came from the routers because Prometheus had none."""
        return any(
            isinstance(entry.demand, Demand) and entry.demand.source == "Routers"
            for entry in self.inputs
        )


def decide(
    autoscaling: Autoscaling,
    demands: Mapping[str, Demand | Lost],
    capacity: Capacity,
    memory: Memory,
    now: float,
) -> tuple[Decision, Memory]:
    """Evaluate once. `demands` holds one entry per metric type of `autoscaling`."""
    inputs = tuple(
        _evaluate(metric, demands[metric.type], capacity, autoscaling)
        for metric in autoscaling.metrics
    )
    wanted = _largest(inputs, capacity.desired)
    memory = remember(memory, wanted, autoscaling, is_idle=_is_idle(inputs), now=now)
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


def _is_idle(inputs: Iterable[Input]) -> bool:
    """Whether nothing waits or runs, as far as every metric knows."""
    return all(
        isinstance(entry.demand, Demand) and not entry.demand.waiting and not entry.demand.running
        for entry in inputs
    )


def _evaluate(
    metric: Metric, demand: Demand | Lost, capacity: Capacity, autoscaling: Autoscaling
) -> Input:
    if isinstance(demand, Lost):
        return Input(metric, demand, None)
    return Input(metric, demand, _proposal(metric, demand, capacity, autoscaling))


def _proposal(metric: Metric, demand: Demand, capacity: Capacity, autoscaling: Autoscaling) -> int:
    target, current = float(metric.average_value), capacity.desired
    ratio = demand.waiting / (target * current) if current else None
    rules = autoscaling.scale_up if ratio is None or ratio > 1 else autoscaling.scale_down
    if ratio is not None and abs(ratio - 1) <= rules.tolerance:
        return current
    proposal = ceil(demand.waiting / target)
    if proposal >= current or demand.waiting > target * capacity.routable:
        return max(proposal, current)
    seats_needed = ceil((demand.running + demand.waiting) / capacity.seats)
    return max(proposal, min(current, seats_needed))


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
    if isinstance(entry.demand, Lost):
        return f"{entry.metric.type} lost: {entry.demand.reason}"
    return (
        f"{entry.metric.type}: {entry.demand.waiting:g} waiting, {entry.demand.running:g} running,"
        f" target {entry.metric.average_value.normalize():f} waiting per replica"
    )
