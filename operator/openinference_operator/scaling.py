"""How many replicas demand asks for: the semantics of HorizontalPodAutoscaler v2, pure.

Per metric, with w the value summed over the service, t the wanted average and N the replicas asked
for last (those that start count as capacity, so they are not asked for twice):

    ratio    = w / (t * N)
    proposal = N            if |ratio - 1| <= tolerance
               ceil(w / t)  otherwise

The largest proposal wins, then come the stabilisation window, the policies and the bounds, as
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ describes them. We
differ in four ways, each towards not losing work:

- A scale-down by Queue leaves seats for the requests that run and wait: a fleet that is busy but
  has no queue is not idle.
- Replicas that are not routable yet never cause one: while those that are routable have more than
  the target waiting, the number holds.
- A lost metric holds the number (never reads as zero), and counts in the window as a vote to hold.
- The windows live in memory. A new leader begins with a vote for the recorded number, so a change
  of leader never causes a scale-down.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from openinference_operator.spec import Autoscaling, Metric, Policy, ScalingRules


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
class Memory:
    """Past recommendations and changes, as (time, number), within the longest window or period."""

    recommendations: tuple[tuple[float, int], ...]
    changes: tuple[tuple[float, int], ...] = ()

    @staticmethod
    def begin(desired: int, now: float) -> "Memory":
        """The memory of a new leader: one vote for the recorded number."""
        return Memory(recommendations=((now, desired),))


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
    limited_by: str | None = None

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
    memory = _remember_recommendation(memory, wanted, autoscaling, now)
    stable = _stabilize(wanted, capacity.desired, memory, autoscaling, now)
    allowed, limit = _limit(stable, capacity.desired, memory, autoscaling, now)
    decision = Decision(
        desired=allowed,
        reason=_reason(inputs, allowed, capacity.desired),
        message=_message(inputs, allowed, capacity.desired, wanted),
        inputs=inputs,
        is_stabilized=stable != wanted,
        limited_by=limit,
    )
    change = (now, allowed - capacity.desired)
    changes = (*memory.changes, change) if change[1] else memory.changes
    return decision, replace(memory, changes=changes)


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


def _remember_recommendation(
    memory: Memory, wanted: int, autoscaling: Autoscaling, now: float
) -> Memory:
    rules = (autoscaling.scale_up, autoscaling.scale_down)
    window = max(rule.stabilization_window_seconds for rule in rules)
    period = max(policy.period_seconds for rule in rules for policy in rule.policies)
    return Memory(
        recommendations=(*_since(memory.recommendations, now - window), (now, wanted)),
        changes=_since(memory.changes, now - period),
    )


def _stabilize(
    wanted: int, current: int, memory: Memory, autoscaling: Autoscaling, now: float
) -> int:
    """The lowest recent recommendation on the way up, the highest on the way down."""
    up_since = now - autoscaling.scale_up.stabilization_window_seconds
    down_since = now - autoscaling.scale_down.stabilization_window_seconds
    up = min([wanted, *(number for _, number in _since(memory.recommendations, up_since))])
    down = max([wanted, *(number for _, number in _since(memory.recommendations, down_since))])
    return min(max(current, up), down)


def _limit(
    stable: int, current: int, memory: Memory, autoscaling: Autoscaling, now: float
) -> tuple[int, str | None]:
    """Apply policies, then bounds; say which of them changed the number."""
    allowed, limit = stable, None
    if stable > current:
        allowed = min(stable, _highest_allowed(current, memory, autoscaling.scale_up, now))
        limit = "ScaleUpLimit" if allowed < stable else None
    elif stable < current:
        allowed = max(stable, _lowest_allowed(current, memory, autoscaling.scale_down, now))
        limit = "ScaleDownLimit" if allowed > stable else None
    if allowed > autoscaling.max_replicas:
        return autoscaling.max_replicas, "TooManyReplicas"
    if allowed < autoscaling.min_replicas:
        return autoscaling.min_replicas, "TooFewReplicas"
    return allowed, limit


def _highest_allowed(current: int, memory: Memory, rules: ScalingRules, now: float) -> int:
    def limit(policy: Policy) -> int:
        start = _at_start_of_period(current, memory, policy, now)
        if policy.type == "Pods":
            return start + policy.value
        return ceil(start * (100 + policy.value) / 100)

    return max(current, _select(rules, limit, current, max, min))


def _lowest_allowed(current: int, memory: Memory, rules: ScalingRules, now: float) -> int:
    def limit(policy: Policy) -> int:
        start = _at_start_of_period(current, memory, policy, now)
        if policy.type == "Pods":
            return start - policy.value
        return start * max(0, 100 - policy.value) // 100

    return min(current, _select(rules, limit, current, min, max))


def _select(
    rules: ScalingRules,
    limit: Callable[[Policy], int],
    current: int,
    largest_change: Callable[[Iterable[int]], int],
    smallest_change: Callable[[Iterable[int]], int],
) -> int:
    if rules.select_policy == "Disabled":
        return current
    choose = largest_change if rules.select_policy == "Max" else smallest_change
    return choose(limit(policy) for policy in rules.policies)


def _at_start_of_period(current: int, memory: Memory, policy: Policy, now: float) -> int:
    changes = _since(memory.changes, now - policy.period_seconds)
    return current - sum(change for _, change in changes)


def _since(entries: Iterable[tuple[float, int]], start: float) -> tuple[tuple[float, int], ...]:
    return tuple(entry for entry in entries if entry[0] > start)


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
