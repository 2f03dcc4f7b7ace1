"""One answer as a fold over token ids: text, stop strings, tool calls, usage, finish reason.

Everything a client sees is a function of the ids fed so far. So an answer that began on another
replica goes on here: its ids are fed again with the results thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from openinference_engine.parsers.parts import Parts, overlap
from openinference_engine.parsers.reading import Reading
from openinference_engine.request import FinishReason, SamplingParams
from openinference_engine.tokenizer.tokenizer import Detokenizer, Tokenizer

AnswerEnd = FinishReason | Literal["tool_calls"]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one id adds: parts that are certain to be shown, and the end, if this was it."""

    parts: Parts = field(default_factory=Parts)
    finish_reason: AnswerEnd | None = None


class OutputFold:
    def __init__(
        self,
        tokenizer: Tokenizer,
        params: SamplingParams,
        reading: Reading | None = None,
        prompt_ids: Sequence[int] = (),
    ) -> None:
        reading = reading or Reading()
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self.num_characters = 0
        """Of all text so far, shown or not."""
        self.finish_reason: AnswerEnd | None = None
        self._has_calls = False
        self._params = params
        self._shows_stop = reading.shows_stop
        self._detokenizer = Detokenizer(
            tokenizer,
            skips_special_tokens=not reading.keeps_special_tokens,
            context=prompt_ids[-1:] if reading.continues_prompt else (),
        )
        self._stops = StopBuffer(reading.stop, shows_stop=reading.shows_stop)
        self._parser = reading.new_parser()

    def replay(self, token_ids: Iterable[int]) -> None:
        """Feeds ids whose results were shown already."""
        for token_id in token_ids:
            self.feed(token_id)

    def feed(self, token_id: int) -> Delta:
        """Takes the next id. Ids behind the end add nothing."""
        if self.finish_reason is not None:
            return Delta(finish_reason=self.finish_reason)
        self.num_tokens += 1
        reason = self._params.finish_reason_after(token_id, self.num_tokens)
        text = self._text_of(token_id, reason)
        parts = self._parser.feed(text)
        if reason is not None or self._stops.is_hit:
            parts.extend(self._parser.flush())
        self.num_reasoning_tokens += bool(parts.reasoning)
        self._has_calls = self._has_calls or bool(parts.calls)
        self.finish_reason = self._end(reason)
        return Delta(parts, self.finish_reason)

    def _text_of(self, token_id: int, reason: FinishReason | None) -> str:
        """The text that is certain behind this id, which may be the last one."""
        is_shown = self._shows_stop or reason != "stop"
        text = self._detokenizer.feed(token_id) if is_shown else ""
        if reason is not None:
            text += self._detokenizer.flush()
        self.num_characters += len(text)
        # As stop tokens do, stop strings wait for so many.
        shown = self._stops.feed(text, may_end=self.num_tokens > self._params.min_tokens)
        return shown if reason is None else shown + self._stops.flush()

    def _end(self, reason: FinishReason | None) -> AnswerEnd | None:
        if self._stops.is_hit:
            reason = "stop"
        return "tool_calls" if reason == "stop" and self._has_calls else reason


class StopBuffer:
    """Passes text through up to the first stop string, holding back what may begin one."""

    def __init__(self, stops: tuple[str, ...], *, shows_stop: bool = False) -> None:
        self.is_hit = False
        self._stops = stops
        self._shows_stop = shows_stop
        self._held = ""

    def feed(self, text: str, *, may_end: bool = True) -> str:
        """`may_end`: whether a stop string that ends in this text counts, wherever it began."""
        if not self._stops or self.is_hit:
            return "" if self.is_hit else text
        num_before = len(self._held)
        self._held += text
        hits = [
            (place, stop)
            for stop in self._stops
            if may_end and (place := self._find(stop, end_after=num_before)) >= 0
        ]
        if hits:
            self.is_hit = True
            place, stop = min(hits)
            return self._held[: place + len(stop) * self._shows_stop]
        end = len(self._held) - max(overlap(self._held, stop) for stop in self._stops)
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def _find(self, stop: str, *, end_after: int) -> int:
        """The first place of one that ends behind so many characters of what is held; -1: none."""
        return self._held.find(stop, max(0, end_after - len(stop) + 1))

    def flush(self) -> str:
        """What was held back for nothing."""
        held, self._held = self._held, ""
        return "" if self.is_hit else held
