"""`spec.rollout` as typed data: how a new revision replaces the old one."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields, Share, default

Strategy: TypeAlias = Literal["RollingUpdate", "Canary"]
Measure: TypeAlias = Literal["ErrorRate", "TTFT"]

STRATEGIES = ("RollingUpdate", "Canary")
MEASURES = ("ErrorRate", "TTFT")


@dataclass(frozen=True, slots=True)
class CanaryStep:
    """How many of a hundred requests the new revision gets, and for how long at least."""

    weight: int
    pause_seconds: int


@dataclass(frozen=True, slots=True)
class Limit:
    """What the new revision may not exceed: a share or seconds, times the old one's, or both."""

    measure: Measure
    maximum: Decimal | None
    maximum_ratio: Decimal | None


@dataclass(frozen=True, slots=True)
class GoldenPrompt:
    """A prompt, and a text that its greedy answer of at most `max_tokens` tokens must contain."""

    prompt: str
    expect: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Canary:
    """The way of a canary, and what it is judged by."""

    steps: tuple[CanaryStep, ...]
    analysis: tuple[Limit, ...]
    golden: tuple[GoldenPrompt, ...]


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new revision replaces the old one. `canary` is None with RollingUpdate."""

    max_surge: Share
    max_unavailable: Share
    drain_timeout_seconds: int
    progress_deadline_seconds: int
    paused: bool = False
    canary: Canary | None = None


def parse_rollout(fields: Fields) -> Rollout:
    """Read spec.rollout."""
    surge = default(fields.share("maxSurge"), Share(1, is_percent=False))
    unavailable = default(fields.share("maxUnavailable"), Share(0, is_percent=False))
    if surge.value == 0 and unavailable.value == 0:
        raise SpecError(
            fields.at("maxSurge"), "is 0, and so is maxUnavailable; set one of them to 1"
        )
    strategy = default(fields.choice("strategy", STRATEGIES), "RollingUpdate")
    if strategy == "Canary" and surge.value == 0:
        raise SpecError(
            fields.at("maxSurge"), "is 0, but a canary runs beside the old replicas; set it to 1"
        )
    canary = _canary(fields.section("canary")) if strategy == "Canary" else None
    return Rollout(
        max_surge=surge,
        max_unavailable=unavailable,
        drain_timeout_seconds=default(fields.duration_seconds("drainTimeout"), 600),
        progress_deadline_seconds=default(fields.duration_seconds("progressDeadline"), 1800),
        paused=fields.flag("paused"),
        canary=canary,
    )


def _canary(fields: Fields) -> Canary:
    steps = tuple(map(_step, fields.sections("steps")))
    weights = [step.weight for step in steps]
    if not steps:
        raise SpecError(fields.at("steps"), "is empty; add {weight: 10, pause: 5m}")
    if weights != sorted(weights):
        raise SpecError(fields.at("steps"), f"has the weights {weights}; use growing ones")
    return Canary(
        steps=steps,
        analysis=tuple(map(_limit, fields.sections("analysis"))),
        golden=tuple(map(_golden_prompt, fields.sections("golden"))),
    )


def _step(fields: Fields) -> CanaryStep:
    weight = fields.required_integer("weight", minimum=1)
    if weight > 99:
        raise SpecError(fields.at("weight"), f"is {weight}; use a share of requests from 1 to 99")
    return CanaryStep(weight, default(fields.duration_seconds("pause"), 0))


def _limit(fields: Fields) -> Limit:
    measure = fields.choice("metric", MEASURES)
    maximum, ratio = fields.quantity("max"), fields.quantity("maxRatio")
    if measure is None or (maximum is None and ratio is None):
        raise SpecError(fields.at("max"), 'is missing; use {metric: ErrorRate, max: "0.01"}')
    return Limit(cast("Measure", measure), maximum, ratio)


def _golden_prompt(fields: Fields) -> GoldenPrompt:
    return GoldenPrompt(
        prompt=fields.required_text("prompt"),
        expect=fields.required_text("expect"),
        max_tokens=default(fields.integer("maxTokens", minimum=1), 32),
    )
