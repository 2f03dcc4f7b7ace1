"""What some consecutive token ids brought to one choice. All of its pieces together are the answer.

Streams and whole answers are made of the same pieces: a stream writes each as soon as it shows
something, a whole answer is the sum of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from openinference_engine.fold import AnswerEnd
from openinference_engine.parsers.parts import CallDelta


@dataclass(frozen=True, slots=True)
class NamedToken:
    """A token as a client reads it; `text` may be a part of a character."""

    token_id: int
    text: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class RatedToken:
    """A token of the answer or the prompt beside the likeliest ones in its place.

    `offset`: characters of the answer before it.
    """

    token: NamedToken
    rank: int
    top: list[NamedToken]
    offset: int = 0


@dataclass(slots=True)
class Piece:
    choice: int
    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    finish_reason: AnswerEnd | None = None
    token_ids: list[int] = field(default_factory=list)
    rated: list[RatedToken] = field(default_factory=list)

    @property
    def is_visible(self) -> bool:
        """A stream has something to say; ids whose text is held back ride with a later piece."""
        return bool(self.text or self.reasoning or self.calls or self.finish_reason)

    def extend(self, later: Piece) -> None:
        self.text += later.text
        self.reasoning += later.reasoning
        self.calls += later.calls
        self.finish_reason = later.finish_reason
        self.token_ids += later.token_ids
        self.rated += later.rated
