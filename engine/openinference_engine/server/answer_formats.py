"""What form a request may ask its answer to have, as bodies say it; `structure` keeps to it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class TextFormat(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    pass


class JsonObject(msgspec.Struct, frozen=True, tag_field="type", tag="json_object"):
    pass


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`strict` changes nothing: a schema is always kept."""

    name: str
    schema: dict[str, Any]
    description: str = ""
    strict: bool | None = None


class JsonSchema(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


Choices = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1)]


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of these; a schema may also be sent as its JSON text."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None  # EBNF as of llama.cpp
    json_object: bool = False
