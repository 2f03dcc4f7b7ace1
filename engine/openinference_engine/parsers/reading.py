"""How the text of one request's answers is read: with which parsers, and what of it is shown."""

from __future__ import annotations

from dataclasses import dataclass

from openinference_engine.parsers.calls import CallParser
from openinference_engine.parsers.formats import CallFormat
from openinference_engine.parsers.parts import Chain, Parser
from openinference_engine.parsers.reasoning import ReasoningParser


@dataclass(frozen=True, slots=True)
class Reading:
    stop: tuple[str, ...] = ()
    shows_stop: bool = False  # the stop string or token is a part of the text
    shows_special_tokens: bool = False
    continues_prompt: bool = False  # else a new text begins, whose first blank some models strip
    has_reasoning: bool = False
    begins_with_reasoning: bool = False  # the prompt ends with the sign that opens it
    call_format: CallFormat | None = None  # None: no tool may be called
    tool_names: frozenset[str] = frozenset()

    @property
    def keeps_special_tokens(self) -> bool:
        has_signs = self.call_format is not None and self.call_format.has_special_signs
        return self.shows_special_tokens or has_signs

    def new_parser(self) -> Parser:
        parsers: list[Parser] = []
        if self.has_reasoning:
            parsers.append(ReasoningParser(is_open=self.begins_with_reasoning))
        if self.call_format is not None:
            parsers.append(CallParser(self.call_format, self.tool_names))
        return Chain(parsers)
