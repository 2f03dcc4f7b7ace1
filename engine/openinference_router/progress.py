"""How far one stream has come: what the client has seen, so that another replica can go on.

A fold over the engine's events, pure. A retry is a resume of which nothing was said yet: the
first event is kept back until tokens follow it, so a stream that dies before its first token
starts afresh anywhere. After that the token ids said so far go to a group with an equal resume
key, which folds them silently and goes on with the same id and time of creation.
"""

import msgspec

from openinference_router import sse
from openinference_router.errors import UNAVAILABLE, AttemptFailed
from openinference_router.exchange import INTERNAL_FIELD

MAX_KEPT_BACK_BYTES = 64 * 1024  # the openings of 128 choices are half of it


class _Internal(msgspec.Struct, frozen=True):
    token_ids: dict[str, list[int]] = {}


class _Choice(msgspec.Struct):
    index: int
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    id: str
    created: int
    choices: list[_Choice]
    openinference: _Internal = _Internal()


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_error = msgspec.json.Decoder(_Error).decode
_encode = msgspec.json.Encoder().encode


class Progress:
    """The state of one stream over all its attempts; only one that `tracks_tokens` can resume."""

    def __init__(self, *, tracks_tokens: bool) -> None:
        self.tracks_tokens = tracks_tokens
        self._first: _Chunk | None = None
        self._token_ids: dict[str, list[int]] = {}
        self._finished: set[int] = set()
        self._has_usage = False
        self._kept_back = b""
        self.has_begun = False
        """The client has seen a part of the answer."""
        self.is_complete = False
        self.num_released = 0
        """Events that went to the client; it stands still while attempts get nowhere."""
        self.num_tokens = 0
        """Tokens of the answer so far; where their ids are not tracked an event counts as one."""

    def internal(self) -> object | None:
        """The internal field of the next attempt's request."""
        if not self.tracks_tokens:
            return None
        if self._first is None or not self.has_begun:
            return {"stream_token_ids": True}
        resume = {
            "id": self._first.id,
            "created": self._first.created,
            "token_ids": self._token_ids,
        }
        return {"stream_token_ids": True, "resume": resume}

    def restart(self) -> None:
        """Forget what a failed attempt said that the client has not seen."""
        self._kept_back = b""
        if not self.has_begun:
            self._first = None

    def absorb(self, data: bytes) -> bytes:
        """Fold one event's data; returns the events for the client, perhaps none.

        Raises AttemptFailed when the event says or shows that this attempt is over.
        """
        if data == sse.DONE:
            self.is_complete = True
            return self._release(sse.event(data))
        try:
            return self._absorb_chunk(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise AttemptFailed(f"sent an event that is not a chunk: {error}") from error

    def _absorb_chunk(self, data: bytes) -> bytes:
        fields = _decode_fields(data)
        if "error" in fields:
            return self._absorb_error(fields["error"], data)
        if not self.tracks_tokens:
            self.num_tokens += 1
            return self._release(sse.event(data))
        fields.pop(INTERNAL_FIELD, None)
        chunk = _decode_chunk(data)
        if self._is_repetition(chunk):
            return b""
        has_tokens = self._note(chunk)
        event = sse.event(_encode(fields))
        if self.has_begun or has_tokens or len(self._kept_back) > MAX_KEPT_BACK_BYTES:
            return self._release(event)
        self._kept_back += event
        return b""

    def _is_repetition(self, chunk: _Chunk) -> bool:
        """A resumed engine says ends and usage again: it cannot know that they arrived."""
        if not chunk.choices:
            return self._has_usage
        return all(choice.index in self._finished for choice in chunk.choices)

    def _note(self, chunk: _Chunk) -> bool:
        """Remember what `chunk` says; True when it brings tokens or an end."""
        self._first = self._first or chunk
        for choice, ids in chunk.openinference.token_ids.items():
            self._token_ids.setdefault(choice, []).extend(ids)
            self.num_tokens += len(ids)
        self._has_usage = self._has_usage or not chunk.choices
        ended = {choice.index for choice in chunk.choices if choice.finish_reason}
        self._finished |= ended
        return bool(ended) or any(chunk.openinference.token_ids.values())

    def _absorb_error(self, raw: msgspec.Raw, data: bytes) -> bytes:
        error = _decode_error(raw)
        if error.type == UNAVAILABLE:
            raise AttemptFailed(f"ended the stream: {error.message}", is_broken=False)
        self.is_complete = True
        return self._release(sse.event(data))

    def _release(self, event: bytes) -> bytes:
        self.has_begun = True
        self.num_released += 1
        released, self._kept_back = self._kept_back + event, b""
        return released
