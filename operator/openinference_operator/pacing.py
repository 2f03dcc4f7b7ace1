"""How fast the number of replicas may change: windows, policies, bounds, and the way to zero.

The stabilisation window takes the lowest recommendation within it on the way up and the highest on
the way down; the policies bound the change within their periods; all as in
HorizontalPodAutoscaler v2. Zero is special on both sides:

- To zero it goes when nothing has waited or run for `idleAfter`, however long windows are, unless
  scaling down is disabled; until then one replica stays.
- From zero it goes at once, by at least one, whatever windows and policies say: somebody waits.

The memory of all this lives in the leader only. A new leader begins with a vote for the recorded
number and without any idleness, so a change of leader never causes a scale-down.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import ceil

from openinference_operator.reasons import Reason
from openinference_operator.scaling_spec import Autoscaling, Policy, ScalingRules


@dataclass(frozen=True, slots=True)
class Memory:
    """Past recommendations and changes, as (time, number), within the longest window or period.

    `idle_since`: since when nothing waits or runs; None while something does, or that is unknown.
    """

    recommendations: tuple[tuple[float, int], ...]
    changes: tuple[tuple[float, int], ...] = ()
    idle_since: float | None = None

    @staticmethod
    def begin(desired: int, now: float) -> "Memory":
        """The memory of a new leader."""
        return Memory(recommendations=((now, desired),))


@dataclass(frozen=True, slots=True)
class Pace:
    """The number that is allowed now; what limited it, if anything; whether a window held it."""

    allowed: int
    limited_by: Reason | None = None
    is_stabilized: bool = False


def remember(
    memory: Memory, wanted: int, autoscaling: Autoscaling, *, is_idle: bool, now: float
) -> Memory:
    """Add a recommendation, and drop what no window or period reaches any more."""
    rules = (autoscaling.scale_up, autoscaling.scale_down)
    window = max(rule.stabilization_window_seconds for rule in rules)
    period = max(policy.period_seconds for rule in rules for policy in rule.policies)
    idle_since = now if memory.idle_since is None else memory.idle_since
    return Memory(
        recommendations=(*_since(memory.recommendations, now - window), (now, wanted)),
        changes=_since(memory.changes, now - period),
        idle_since=idle_since if is_idle else None,
    )


def remember_change(memory: Memory, change: int, now: float) -> Memory:
    """Add a change of the number, for the policies."""
    return replace(memory, changes=(*memory.changes, (now, change))) if change else memory


def pace(wanted: int, current: int, memory: Memory, autoscaling: Autoscaling, now: float) -> Pace:
    """The number to ask for now, on the way from `current` to `wanted`."""
    may_be_zero = autoscaling.min_replicas == 0
    may_go_down = autoscaling.scale_down.select_policy != "Disabled"
    if may_be_zero and current == 0:
        return _from_zero(wanted, memory, autoscaling, now)
    if may_be_zero and may_go_down and _has_been_idle(memory, autoscaling, now):
        return Pace(0)
    stable = _stabilize(wanted, current, memory, autoscaling, now)
    return _limit(stable, wanted, current, memory, autoscaling, now)


def _from_zero(wanted: int, memory: Memory, autoscaling: Autoscaling, now: float) -> Pace:
    if wanted == 0:
        return Pace(0)
    highest = _highest_allowed(0, memory, autoscaling.scale_up, now)
    return Pace(min(wanted, max(1, highest), autoscaling.max_replicas))


def _has_been_idle(memory: Memory, autoscaling: Autoscaling, now: float) -> bool:
    return (
        memory.idle_since is not None and now - memory.idle_since >= autoscaling.idle_after_seconds
    )


def _stabilize(
    wanted: int, current: int, memory: Memory, autoscaling: Autoscaling, now: float
) -> int:
    up_since = now - autoscaling.scale_up.stabilization_window_seconds
    down_since = now - autoscaling.scale_down.stabilization_window_seconds
    up = min([wanted, *(number for _, number in _since(memory.recommendations, up_since))])
    down = max([wanted, *(number for _, number in _since(memory.recommendations, down_since))])
    return min(max(current, up), down)


def _limit(
    stable: int, wanted: int, current: int, memory: Memory, autoscaling: Autoscaling, now: float
) -> Pace:
    """Apply policies, then bounds; say which of them changed the number."""
    allowed = stable
    limit: Reason | None = None
    if stable > current:
        allowed = min(stable, _highest_allowed(current, memory, autoscaling.scale_up, now))
        limit = Reason.SCALE_UP_LIMIT if allowed < stable else None
    elif stable < current:
        allowed = max(stable, _lowest_allowed(current, memory, autoscaling.scale_down, now))
        limit = Reason.SCALE_DOWN_LIMIT if allowed > stable else None
    lowest = max(1, autoscaling.min_replicas)
    if allowed > autoscaling.max_replicas:
        allowed, limit = autoscaling.max_replicas, Reason.TOO_MANY_REPLICAS
    elif allowed < lowest:
        allowed, limit = lowest, Reason.TOO_FEW_REPLICAS
    return Pace(allowed, limit, is_stabilized=stable != wanted)


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
