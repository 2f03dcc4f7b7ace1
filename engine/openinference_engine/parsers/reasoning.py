"""Splits off what a model thinks before it answers: `<think>…</think>` at the beginning."""

from __future__ import annotations

from openinference_engine.parsers.parts import Parts, split_held

BEGIN, END = "<think>", "</think>"


class ReasoningParser:
    """`is_open`: the prompt itself ends with the sign, so the answer begins inside."""

    def __init__(self, *, is_open: bool) -> None:
        self._held = ""
        self._is_inside = is_open
        self._is_over = False
        self._is_blank = True  # nothing but blanks since the last sign; they belong to it

    def feed(self, text: str) -> Parts:
        self._held += text
        parts = Parts()
        if not (self._is_inside or self._is_over):
            self._look_for_begin()
        if self._is_inside:
            parts.reasoning = self._take_reasoning()
        if self._is_over:
            parts.text = self._without_blanks(self._held)
            self._held = ""
        return parts

    def flush(self) -> Parts:
        held, self._held = self._held, ""
        return Parts(reasoning=self._without_blanks(held)) if self._is_inside else Parts(held)

    def _look_for_begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(BEGIN):
            self._held = start[len(BEGIN) :]
            self._is_inside = True
        elif not BEGIN.startswith(start):
            self._is_over = True
            self._is_blank = False  # blanks before a plain answer are its own

    def _take_reasoning(self) -> str:
        thought, sign, rest = self._held.partition(END)
        if sign:
            self._is_inside, self._is_over = False, True
            shown = self._without_blanks(thought.rstrip())
            self._held, self._is_blank = rest, True
            return shown
        shown, self._held = split_held(thought, END)
        return self._without_blanks(shown)

    def _without_blanks(self, text: str) -> str:
        if self._is_blank:
            text = text.lstrip()
            self._is_blank = not text
        return text
