"""How far one stream has come: what the client has seen, so that another replica can go on.

A fold over the engine's events, pure. A retry is a resume of which nothing was said yet: the
first event is kept back until tokens follow it, so a stream that dies before its first token
starts afresh anywhere. After that the token ids said so far go to a group with an equal resume
key, which folds them silently and goes on with the same id and time of creation.

This runs for every event of every stream. So an event is not parsed and written again: the
internal field, which our engine writes last, is cut off its bytes, and each half is read once.
"""

from collections.abc import Iterable

import msgspec

from openinference_router import sse
from openinference_router.errors import INTERNAL, UNAVAILABLE, AttemptFailed
from openinference_router.exchange import INTERNAL_FIELD

MAX_KEPT_BACK_BYTES = 64 * 1024  # the openings of 128 choices are half of it


class _Internal(msgspec.Struct, frozen=True):
    token_ids: dict[str, list[int]] = {}
    cached_tokens: int = 0


class _Choice(msgspec.Struct):
    index: int
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Error(msgspec.Struct):
    message: str = ""
    type: str | None = None


class _Chunk(msgspec.Struct):
    id: str = ""
    created: int = 0
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


_LAST_FIELD = f',"{INTERNAL_FIELD}":'.encode()
_ANY_FIELD = f'"{INTERNAL_FIELD}"'.encode()
_NOTHING = _Internal()

_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_internal = msgspec.json.Decoder(_Internal).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Progress:
    """The state of one stream over all its attempts; only one that `tracks_tokens` can resume."""

    def __init__(self, *, tracks_tokens: bool) -> None:
        self.tracks_tokens = tracks_tokens
        self._first: _Chunk | None = None
        self._token_ids: dict[str, list[int]] = {}
        self._cached_tokens = 0
        self._finished: set[int] = set()
        self._has_usage = False
        self._kept_back = b""
        self.has_begun = False
        """The client has seen a part of the answer."""
        self.is_complete = False
        self.has_failed = False
        """It is complete with an internal error of the engine, too late for a status to tell."""
        self.failure: AttemptFailed | None = None
        """Why the attempt under way is over before the answer is complete."""
        self.num_released = 0
        """Events that went to the client; it stands still while attempts get nowhere."""
        self.num_tokens = 0
        """Tokens of the answer so far; where their ids are not tracked an event counts as one."""
        self.total_tokens = 0
        """Prompt and answer, as a usage report said; 0 without one."""

    def internal(self) -> object | None:
        """The internal field of the next attempt's request."""
        if not self.tracks_tokens:
            return None
        if self._first is None or not self.has_begun:
            return {"stream_token_ids": True}
        resume: dict[str, object] = {
            "id": self._first.id,
            "created": self._first.created,
            "token_ids": self._token_ids,
        }
        if self._cached_tokens:
            resume["cached_tokens"] = self._cached_tokens
        return {"stream_token_ids": True, "resume": resume}

    def restart(self) -> None:
        """Forget what a failed attempt said that the client has not seen."""
        self._kept_back = b""
        self.failure = None
        if not self.has_begun:
            self._first, self._cached_tokens = None, 0

    def absorb(self, batch: Iterable[bytes]) -> bytes:
        """Fold the data of some events; returns the events for the client, perhaps none.

        After an event that says or shows that the attempt is over, `failure` is set and the rest
        is dropped; what came before it is returned all the same.
        """
        released = []
        try:
            for data in batch:
                released.append(self._absorb(data))
        except AttemptFailed as failure:
            self.failure = failure
        except (msgspec.MsgspecError, RecursionError) as error:
            self.failure = AttemptFailed(f"sent an event that is not a chunk: {error}")
        return b"".join(released)

    def _absorb(self, data: bytes) -> bytes:
        if data == sse.DONE:
            self.is_complete = True
            return self._release(sse.event(data))
        data, internal = split_internal(data)
        chunk = _decode_chunk(data)
        if chunk.error is not None:
            return self._absorb_error(chunk.error, data)
        if not self.tracks_tokens:
            self._note_usage(chunk)
            self.num_tokens += 1
            return self._release(sse.event(data))
        if not chunk.id:
            raise AttemptFailed("sent an event that is not a chunk: it has no id")
        if self._is_repetition(chunk):
            return b""
        event = sse.event(data)
        has_tokens = self._note(chunk, internal)
        if self.has_begun or has_tokens or len(self._kept_back) > MAX_KEPT_BACK_BYTES:
            return self._release(event)
        self._kept_back += event
        return b""

    def _is_repetition(self, chunk: _Chunk) -> bool:
        """A resumed engine says ends and usage again: it cannot know that they arrived."""
        if not chunk.choices:
            return self._has_usage
        return bool(self._finished) and all(
            choice.index in self._finished for choice in chunk.choices
        )

    def _note(self, chunk: _Chunk, internal: _Internal) -> bool:
        """Remember what an event says; True when it brings tokens or an end."""
        self._first = self._first or chunk
        self._cached_tokens += internal.cached_tokens  # told once for each prompt
        has_tokens = False
        for choice, ids in internal.token_ids.items():
            self._token_ids.setdefault(choice, []).extend(ids)
            self.num_tokens += len(ids)
            has_tokens = has_tokens or bool(ids)
        for ended in chunk.choices:
            if ended.finish_reason:
                self._finished.add(ended.index)
                has_tokens = True
        if not chunk.choices:
            self._has_usage = True
        self._note_usage(chunk)
        return has_tokens

    def _note_usage(self, chunk: _Chunk) -> None:
        if chunk.usage is not None:
            self.total_tokens = chunk.usage.total_tokens

    def _absorb_error(self, error: _Error, data: bytes) -> bytes:
        if error.type == UNAVAILABLE:
            raise AttemptFailed(f"ended the stream: {error.message}", is_broken=False)
        self.is_complete = True
        self.has_failed = error.type == INTERNAL
        return self._release(sse.event(data))

    def _release(self, event: bytes) -> bytes:
        self.has_begun = True
        self.num_released += 1
        if not self._kept_back:
            return event
        released, self._kept_back = self._kept_back + event, b""
        return released


def split_internal(data: bytes) -> tuple[bytes, _Internal]:
    """An event as the client may see it, and its internal field.

    The shortcut is sound: inside a JSON string the quotes would be escaped, and when all that
    follows but the last brace is one JSON value, the field is the last of the outermost object.
    Raises msgspec.MsgspecError.
    """
    head, separator, tail = data.rpartition(_LAST_FIELD)
    if separator and tail.endswith(b"}"):
        try:
            return head + b"}", _decode_internal(tail[:-1])
        except msgspec.DecodeError:
            pass  # not the last field
    if _ANY_FIELD not in data:
        return data, _NOTHING
    fields = _decode_fields(data)
    internal = fields.pop(INTERNAL_FIELD, None)
    return _encode(fields), _NOTHING if internal is None else _decode_internal(internal)
