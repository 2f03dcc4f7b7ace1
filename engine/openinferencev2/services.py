"""InferenceServices as the command line speaks of them: state, conditions, words for both. Pure.

The words are those of docs/conditions.md, which the dashboard carries along.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from openinferencev2.kubectl import Json

ASLEEP = ("Suspended", "ScaledToZero")
BUSY = ("Starting", "RollingOut", "ScalingDown")
HOPELESS = ("InvalidSpec", "NameConflict", "WriteRefused", "RolledBack", "ProgressDeadlineExceeded")
"""Reasons that do not pass by waiting."""

Tone = Literal["good", "busy", "bad", "asleep"]


@dataclass(frozen=True, slots=True)
class State:
    """In one word, with the number or object behind it."""

    tone: Tone
    reason: str
    message: str


def state(service: Json) -> State:
    """How a service is, by its conditions."""
    ready = condition(service, "Ready")
    if not ready:
        return State("busy", "Unseen", "the operator has not looked at it yet")
    reasons = (ready["reason"], condition(service, "Available").get("reason", ""))
    asleep = next((reason for reason in reasons if reason in ASLEEP), None)
    if asleep:
        return State("asleep", asleep, ready["message"])
    if ready["status"] == "True":
        return State("good", ready["reason"], ready["message"])
    if ready["reason"] == "Complete":  # all that is wanted is there, and that is no replica
        return State("asleep", "NoReplicas", ready["message"])
    tone: Tone = "busy" if ready["reason"] in BUSY else "bad"
    return State(tone, ready["reason"], ready["message"])


def is_settled(service: Json) -> bool:
    """Ready, said of the present spec, by its newest revision alone."""
    status = service.get("status", {})
    is_current = status.get("observedGeneration") == service["metadata"].get("generation")
    is_complete = status.get("currentRevision") == status.get("updateRevision")
    is_ready = condition(service, "Ready").get("status") == "True"
    return is_current and is_complete and (is_ready or state(service).reason == "NoReplicas")


def failure(service: Json) -> str:
    """Why waiting is in vain, as far as the conditions of the present spec tell; else empty."""
    status = service.get("status", {})
    if status.get("observedGeneration") != service["metadata"].get("generation"):
        return ""
    for kind in ("Ready", "Progressing"):
        found = condition(service, kind)
        if found.get("reason") in HOPELESS:
            return f"{found['reason']}: {found['message']}"
    return ""


def condition(service: Json, kind: str) -> Json:
    conditions = service.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def tone_of(entry: Json) -> Tone:
    """How good or bad one condition is."""
    if entry["reason"] in ASLEEP:
        return "asleep"
    if entry["reason"] in BUSY:
        return "busy"
    is_limit = entry["type"] == "ScalingLimited"
    if entry["status"] == ("False" if is_limit else "True"):
        return "good"
    return "busy" if is_limit or entry["status"] == "Unknown" else "bad"


def remedy(reason: str) -> str:
    """What to do about a condition's reason; empty where nothing is needed or known."""
    told: str = _words().get(reason, {}).get("remedy", "")
    return "" if told.startswith("Nothing") else told


@functools.cache
def _words() -> Json:
    static = resources.files("openinference_router.dashboard").joinpath("static")
    words: Json = json.loads(static.joinpath("reasons.json").read_text())["reasons"]
    return words
