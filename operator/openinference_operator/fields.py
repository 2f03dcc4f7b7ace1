"""Reading values out of a custom resource, with errors that name the field path.

A `Fields` is one object of the resource together with its path. The API server has checked all
of this already; these checks are for objects that were stored under another schema, and for
`plan -f`, which no API server sees.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Any, TypeVar

from openinference_operator.errors import SpecError

Value = TypeVar("Value")

QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
DECIMAL_SUFFIXES = {
    "n": -9,
    "u": -6,
    "m": -3,
    "": 0,
    "k": 3,
    "M": 6,
    "G": 9,
    "T": 12,
    "P": 15,
    "E": 18,
}
EXACT_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,6})s)?(?:(\d{1,9})ms)?")
DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")


def parse_quantity(text: str) -> Decimal | None:
    """Read a Kubernetes quantity such as 500m, 1.5Gi or 2e3; None if it is not one."""
    match = QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, suffix = match.groups(default="")
    if suffix.endswith("i"):
        return Decimal(number) * Decimal(1024) ** ("KMGTPE".index(suffix[0]) + 1)
    if suffix[:1] in ("e", "E") and suffix != "E":
        return Decimal(number + suffix)
    return Decimal(number).scaleb(DECIMAL_SUFFIXES[suffix])


@dataclass(frozen=True, slots=True)
class Share:
    """A number of replicas, or a percentage of them."""

    value: int
    is_percent: bool

    def of(self, replicas: int, *, round_up: bool) -> int:
        """Resolve the share of so many replicas to a number."""
        if not self.is_percent:
            return self.value
        return ceil(replicas * self.value / 100) if round_up else replicas * self.value // 100


@dataclass(frozen=True, slots=True)
class Fields:
    """One object of a custom resource and its path; a missing or null field reads as None."""

    path: str
    values: Mapping[str, Any]

    def section(self, name: str) -> "Fields":
        """A nested object; empty when it is missing."""
        return Fields(self.at(name), self._typed(name, Mapping, "an object") or {})

    def sections(self, name: str) -> list["Fields"]:
        """A list of nested objects."""
        items = self._typed(name, list, "a list") or []
        paths = [f"{self.at(name)}[{index}]" for index in range(len(items))]
        for path, item in zip(paths, items, strict=True):
            if not isinstance(item, Mapping):
                raise SpecError(path, f"expected an object, is {item!r}")
        return [Fields(path, item) for path, item in zip(paths, items, strict=True)]

    def text(self, name: str) -> str | None:
        """A string."""
        value: str | None = self._typed(name, str, "a string")
        return value

    def required_text(self, name: str) -> str:
        """A string that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise SpecError(self.at(name), "is required; give it a value")
        return value

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of a closed set of words."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise SpecError(self.at(name), f"is {value!r}; use one of {', '.join(choices)}")
        return value

    def flag(self, name: str) -> bool:
        """A boolean, false when missing."""
        return bool(self._typed(name, bool, "true or false"))

    def integer(self, name: str, minimum: int = 0) -> int | None:
        """A whole number of at least `minimum`."""
        value: int | None = self._typed(name, int, "a whole number")
        if isinstance(value, bool) or (value is not None and value < minimum):
            raise SpecError(self.at(name), f"is {value}; use a whole number from {minimum}")
        return value

    def required_integer(self, name: str, minimum: int = 0) -> int:
        """A whole number that must be there."""
        value = self.integer(name, minimum)
        if value is None:
            raise SpecError(self.at(name), "is required; give it a value")
        return value

    def duration_seconds(self, name: str) -> int | None:
        """A duration such as 1h30m, in seconds."""
        value = self.text(name)
        if value is None:
            return None
        match = DURATION.fullmatch(value)
        if not value or match is None:
            raise SpecError(self.at(name), f"is {value!r}; use hours, minutes, seconds: 1h30m")
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds

    def exact_seconds(self, name: str) -> Decimal | None:
        """A duration such as 1m30s or 250ms, in seconds."""
        value = self.text(name)
        if value is None:
            return None
        match = EXACT_DURATION.fullmatch(value)
        if not value or match is None:
            raise SpecError(self.at(name), f"is {value!r}; use a duration such as 2s or 250ms")
        hours, minutes, seconds, milliseconds = (Decimal(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000

    def quantity(self, name: str) -> Decimal | None:
        """A Kubernetes quantity such as 500m."""
        value = self.values.get(name)
        if value is None:
            return None
        quantity = parse_quantity(str(value))
        if quantity is None:
            raise SpecError(self.at(name), f"is {value!r}; use a quantity such as 500m")
        return quantity

    def share(self, name: str) -> Share | None:
        """A number of replicas or a percentage."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return Share(value, is_percent=False)
        if isinstance(value, str) and re.fullmatch(r"\d{1,3}%", value):
            return Share(int(value[:-1]), is_percent=True)
        raise SpecError(self.at(name), f'is {value!r}; use a number such as 1, or "25%"')

    def texts(self, name: str) -> dict[str, str]:
        """An object whose values are strings or numbers, as strings."""
        return {key: str(value) for key, value in self.section(name).values.items()}

    def at(self, name: str) -> str:
        """The path of a field, as `kubectl explain` writes it."""
        return f"{self.path}.{name}"

    def _typed(self, name: str, kind: type, expected: str) -> Any:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            raise SpecError(self.at(name), f"expected {expected}, is {value!r}")
        return value


def default(value: Value | None, otherwise: Value) -> Value:
    """The value, or another one where the user set none."""
    return otherwise if value is None else value
