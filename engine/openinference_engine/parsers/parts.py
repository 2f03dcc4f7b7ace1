"""What a piece of an answer's text turns out to be, and the chain of parsers that says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A further piece of the arguments of one tool call; its first piece names the tool."""

    index: int
    arguments: str
    name: str | None = None


@dataclass(slots=True)
class Parts:
    """Content, reasoning and tool calls, each a continuation of what came before."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)

    def extend(self, later: Parts) -> None:
        self.text += later.text
        self.reasoning += later.reasoning
        self.calls += later.calls


class Parser(Protocol):
    """A fold over text. What it gives out depends on the text so far, not on how it was cut."""

    def feed(self, text: str) -> Parts: ...

    def flush(self) -> Parts:
        """What was held back when the answer ended."""


class Chain:
    """Each parser reads the content that those before it left."""

    def __init__(self, parsers: list[Parser]) -> None:
        self._parsers = parsers

    def feed(self, text: str) -> Parts:
        return self._pass_on(Parts(text), self._parsers)

    def flush(self) -> Parts:
        parts = Parts()
        for number, parser in enumerate(self._parsers):
            parts.extend(self._pass_on(parser.flush(), self._parsers[number + 1 :]))
        return parts

    @staticmethod
    def _pass_on(parts: Parts, parsers: list[Parser]) -> Parts:
        for parser in parsers:
            read = parser.feed(parts.text)
            parts = Parts(read.text, parts.reasoning + read.reasoning, parts.calls + read.calls)
        return parts


def split_held(text: str, marker: str) -> tuple[str, str]:
    """What is certain to come before `marker`, and what may belong to it with the blanks before.

    Blanks before a marker are dropped with it, so they wait too.
    """
    end = len(text) - overlap(text, marker)
    shown = text[:end].rstrip()
    return shown, text[len(shown) :]


def overlap(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker` but is not all of it."""
    lengths = range(min(len(text), len(marker) - 1), 0, -1)
    return next((length for length in lengths if marker.startswith(text[-length:])), 0)
