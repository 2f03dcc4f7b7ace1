"""Where a rollout goes: which revision is the target, whether it has failed, how far it may go now.

    revision   what the spec asks for
    target     what is rolled out: another one only while `failure` says why the revision cannot be
    current    the last whose rollout was completed, counting what is observed now
    stage      where a canary stands; None without one
    step       what to do with the groups

Pure; `plan` turns a course into operations.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from openinference_operator.canary import FULL_WEIGHT, Place, Stage, Verdict, next_stage, stage_at
from openinference_operator.groups import group_state
from openinference_operator.observe import Observed
from openinference_operator.revision import revision_of
from openinference_operator.rollback import choose_target, find_failure
from openinference_operator.rollout import (
    GroupState,
    Phase,
    Split,
    Step,
    bounds,
    frozen,
    next_step,
)
from openinference_operator.spec import InferenceService


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of a revision that is tried out.

    `golden`: by group, empty where it has passed its golden prompts, else how it failed; a group
    that has not answered yet is missing. `verdict`: what the analysis says.
    """

    golden: Mapping[str, str] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)


NO_EVIDENCE = Evidence()


@dataclass(frozen=True, slots=True)
class Course:
    """The decisions of this moment. `unproved`: groups with golden prompts still to pass.

    `share`: percent of the requests for the target; None where every group is alike.
    `is_held`: no group of the revision is made, because its model is not there or cannot fit.
    """

    revision: str
    target: str
    current: str
    failure: str
    states: tuple[GroupState, ...]
    stage: Stage | None
    step: Step
    unproved: tuple[str, ...]
    share: int | None
    is_held: bool

    @property
    def is_rolled_back(self) -> bool:
        """Whether the wanted revision was given up for the last good one."""
        return self.target != self.revision


def set_course(
    service: InferenceService, observed: Observed, desired: int, evidence: Evidence, now: float
) -> Course:
    """Decide where to go from what is observed."""
    revision, stable = revision_of(service), observed.current_revision
    failure = _failure(service, observed, revision, evidence, now)
    target = choose_target(revision, stable, failure)
    drain_timeout = service.rollout.drain_timeout_seconds
    states = tuple(group_state(group, drain_timeout, now) for group in observed.groups)
    stage = _stage(service, observed, target, states, desired, evidence.verdict, now)
    is_held = target == revision != stable and _lacks_model(service, observed)
    is_paused = is_held or (service.rollout.paused and target == revision != stable)
    return Course(
        revision=revision,
        target=target,
        current=target if _is_complete(states, target, desired) else stable,
        failure=failure,
        states=states,
        stage=stage,
        step=next_step(
            states,
            target,
            bounds(service.rollout, desired),
            routers_settled=observed.routers.is_settled,
            split=_split(states, target, desired, stage, is_paused=is_paused),
            stable=stable,
        ),
        unproved=unproved_groups(service, observed, target),
        share=_share(service, states, target, stage, is_rolled_back=target != revision),
        is_held=is_held,
    )


def unproved_groups(service: InferenceService, observed: Observed, target: str) -> tuple[str, ...]:
    """Groups of a revision on trial that have golden prompts still to pass."""
    canary, stable = service.rollout.canary, observed.current_revision
    if canary is None or not canary.golden or stable in ("", target):
        return ()
    return tuple(
        group.name
        for group in observed.groups
        if group.revision == target and group.golden_at is None
    )


def _lacks_model(service: InferenceService, observed: Observed) -> bool:
    """Whether new replicas would start in vain: their model is not there, or cannot fit."""
    sizing = observed.sizing(service)
    return observed.preparation.holds_replicas or bool(sizing and sizing.problem)


def _is_complete(states: Sequence[GroupState], target: str, desired: int) -> bool:
    """Whether all groups but lost ones are of one revision, as many as wanted, and routable."""
    there = [group for group in states if group.phase is not Phase.LOST]
    done = [group for group in there if group.phase is Phase.ROUTABLE and group.revision == target]
    return len(there) == len(done) == desired > 0


def _failure(
    service: InferenceService, observed: Observed, revision: str, evidence: Evidence, now: float
) -> str:
    """Why the wanted revision cannot be rolled out; empty while it may be, or once it was."""
    kept = observed.revisions.get(revision)
    if kept is not None and kept.failure:
        return kept.failure
    if observed.current_revision == revision:
        return ""
    deadline_seconds = service.rollout.progress_deadline_seconds
    unproved = unproved_groups(service, observed, revision)
    return (
        find_failure(observed.groups, revision, deadline_seconds, now, unproved)
        or next((evidence.golden[name] for name in unproved if evidence.golden.get(name)), "")
        or evidence.verdict.failed
    )


def _stage(
    service: InferenceService,
    observed: Observed,
    target: str,
    states: Sequence[GroupState],
    desired: int,
    verdict: Verdict,
    now: float,
) -> Stage | None:
    """Where the canary stands; None when there is none, or nothing to compare it with."""
    canary, kept = service.rollout.canary, observed.revisions.get(target)
    if canary is None or observed.current_revision in ("", target):
        return None
    place = Place.from_text(kept.canary if kept else "")
    if service.rollout.paused:
        return stage_at(canary.steps, place, desired)
    return next_stage(canary.steps, place, desired, _count_routable(states, target), verdict, now)


def _split(
    states: Sequence[GroupState],
    target: str,
    desired: int,
    stage: Stage | None,
    *,
    is_paused: bool,
) -> Split | None:
    """How far the rollout may go now; a rollback is never paused."""
    if is_paused:
        return frozen(states, target, desired)
    return stage.split if stage is not None else None


def _share(
    service: InferenceService,
    states: Sequence[GroupState],
    target: str,
    stage: Stage | None,
    *,
    is_rolled_back: bool,
) -> int | None:
    """A canary that failed gets nothing more, unless too few good replicas are left without it."""
    if service.rollout.canary is not None and is_rolled_back:
        num_routable = sum(state.phase is Phase.ROUTABLE for state in states)
        is_enough = 2 * _count_routable(states, target) >= num_routable
        return FULL_WEIGHT if is_enough else None
    return stage.weight if stage is not None and not stage.is_complete else None


def _count_routable(states: Iterable[GroupState], revision: str) -> int:
    return sum(state.phase is Phase.ROUTABLE and state.revision == revision for state in states)
