"""One answer as a fold over token ids: text, stop strings, length, usage, finish reason.

Everything a client sees is a function of the ids fed so far. So an answer that began on another
replica goes on here: its ids are fed again with the results thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from openinference_engine.request import FinishReason, SamplingParams
from openinference_engine.tokenizer.tokenizer import Detokenizer, Tokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What one id adds: text that is certain to be shown, and the end, if this was it."""

    text: str
    finish_reason: FinishReason | None


class OutputFold:
    def __init__(
        self, tokenizer: Tokenizer, params: SamplingParams, stop: tuple[str, ...] = ()
    ) -> None:
        self.num_tokens = 0
        self.num_characters = 0
        """Of all text so far, shown or not."""
        self.finish_reason: FinishReason | None = None
        self._params = params
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopBuffer(stop)

    def replay(self, token_ids: Iterable[int]) -> None:
        """Feeds ids whose results were shown already."""
        for token_id in token_ids:
            self.feed(token_id)

    def feed(self, token_id: int) -> Delta:
        """Takes the next id. Ids behind the end add nothing."""
        if self.finish_reason is not None:
            return Delta("", self.finish_reason)
        self.num_tokens += 1
        text = self._detokenizer.feed(token_id)
        self.num_characters += len(text)
        text = self._stops.feed(text)
        self.finish_reason = self._params.finish_reason_after(token_id, self.num_tokens)
        if self.finish_reason is not None and not self._stops.is_hit:
            text += self._stops.feed(self._detokenizer.flush()) + self._stops.flush()
        if self._stops.is_hit:
            self.finish_reason = "stop"
        return Delta(text, self.finish_reason)


class StopBuffer:
    """Passes text through up to the first stop string, holding back what may begin one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.is_hit = False
        self._stops = stops
        self._held = ""

    def feed(self, text: str) -> str:
        if not self._stops or self.is_hit:
            return "" if self.is_hit else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        self.is_hit = bool(places)
        keep = 0 if self.is_hit else max(_overlap(self._held, stop) for stop in self._stops)
        end = min(places) if places else len(self._held) - keep
        shown, self._held = self._held[:end], self._held[end:]
        return shown

    def flush(self) -> str:
        """What was held back for nothing."""
        held, self._held = self._held, ""
        return "" if self.is_hit else held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
