"""A client's request as the router needs it: three fields read, the rest carried as it came.

Only the top level of the JSON is parsed; values stay raw bytes, so a long prompt costs nothing
and reaches the engine unchanged.
"""

import math
import re
import secrets
from dataclasses import dataclass

import msgspec

from openinference_router.errors import Refusal

Fields = dict[str, msgspec.Raw]

GENERATING = frozenset({"/v1/chat/completions", "/v1/completions"})
"""Paths whose answer is drawn with a seed and may be a stream."""

PASSED_ON = frozenset({"/v1/embeddings", "/tokenize", "/detokenize"})
"""Paths whose answer is computed, not drawn: balanced and retried, never resumed."""

INTERNAL_FIELD = "openinference"

_SEVERAL = re.compile(rb'\[\s*["\[]')
_decode_fields = msgspec.json.Decoder(Fields).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Read(msgspec.Struct):
    model: str | None = None
    stream: bool | None = None
    seed: int | None = None


class _Length(msgspec.Struct):
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_decode_length = msgspec.json.Decoder(_Length).decode
_decode_read = msgspec.json.Decoder(_Read).decode


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request; `fields` has a seed whenever the answer is drawn."""

    path: str
    model: str | None
    is_stream: bool
    fields: Fields
    size_bytes: int
    max_tokens: float
    """Most tokens that all choices together may have; infinite where nothing says so."""

    def body(self, internal: object | None = None) -> bytes:
        """The request to an engine, with the internal field when one is given."""
        if internal is None:
            return _encode(self.fields)
        return _encode(self.fields | {INTERNAL_FIELD: msgspec.Raw(_encode(internal))})


def parse(path: str, body: bytes) -> Exchange:
    """Raises Refusal 400 when `body` is not a JSON object with sane routing fields."""
    try:
        fields = _decode_fields(body)
        read = _decode_read(body)
    except msgspec.ValidationError as error:
        raise Refusal(400, f"the request is malformed: {error}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if INTERNAL_FIELD in fields:
        raise Refusal(400, "the field is internal", parameter=INTERNAL_FIELD)
    if path in GENERATING and read.seed is None:
        fields["seed"] = msgspec.Raw(str(secrets.randbits(31)).encode())
    is_stream = bool(read.stream) and path in GENERATING
    return Exchange(path, read.model, is_stream, fields, len(body), _max_tokens(fields))


def _max_tokens(fields: Fields) -> float:
    length = {name: fields[name] for name in _Length.__struct_fields__ if name in fields}
    try:
        asked = _decode_length(_encode(length))
    except msgspec.DecodeError:
        return math.inf
    limit = asked.max_completion_tokens or asked.max_tokens or math.inf
    return limit * (asked.n or 1) * _num_prompts(fields.get("prompt", msgspec.Raw()))


def _num_prompts(prompt: msgspec.Raw) -> int:
    """A list of token ids is one prompt; of the others only the outermost list is read."""
    if not _SEVERAL.match(prompt):
        return 1
    try:
        return len(_decode_list(prompt))
    except msgspec.DecodeError:
        return 1  # the engine will say what is wrong
