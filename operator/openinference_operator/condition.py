"""One condition, and what makes one: a rule is a function of the facts that may say nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from openinference_operator.facts import Facts
from openinference_operator.reasons import Reason

Truth: TypeAlias = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, without the times that the status adds."""

    type: str
    status: Truth
    reason: Reason
    message: str


Rule: TypeAlias = Callable[[Facts], Condition | None]


def count(number: int, noun: str) -> str:
    """Words like "1 replica" and "2 replicas"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
