"""What a client asks an answer to look like, as one grammar (see `grammar`).

OpenAI's `response_format` and vLLM's `structured_outputs` and `guided_*` say the same things.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from openinference_engine.errors import RequestError
from openinference_engine.parsers.reasoning import BEGIN, END
from openinference_engine.server.answer_formats import JsonObject, JsonSchema
from openinference_engine.server.schema import GenerationRequest
from openinference_engine.server.state import ServerState

Format = dict[str, Any]  # a part of a structural tag

_LONGEST = 256 * 1024  # characters of one grammar; compiling takes time at least in proportion
# Of a schema, two for each object in an object: compiling takes time with the square of them (64
# objects 0.1 s, 480 of them 18 s), and grammars are compiled one after the other.
_MOST_LEVELS = 128
# Of one object: with the square of them too (512 properties 0.3 s, 2,000 of them 11 s).
_MOST_OPTIONAL = 512
# Characters of one pattern. In a schema, xgrammar follows its groups down a stack, which overflows
# and ends the core (2 MB: 8,000 of them, 8 MB: 30,000); 5,000 times `a?` takes 2 s, 60,000 minutes.
_LONGEST_PATTERN = 4096
# A model may write blanks between the parts of a JSON text; small ones would never stop.
_MOST_BLANKS = 32
# Keywords of JSON schema that a grammar cannot keep; to pass over them would be to lie.
_UNKEPT_KEYWORDS = ("not", "if", "contains", "uniqueItems", "dependentSchemas", "propertyNames")
_NAMING_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions")
_LOOKAROUND = ("(?=", "(?!", "(?<=", "(?<!")


@dataclass(frozen=True, slots=True)
class Structure:
    field: str  # where the client asked for it
    format: Format


def structure_of(request: GenerationRequest) -> Structure | None:
    """Raises RequestError if two fields ask for a structure, or if one cannot be kept."""
    asked = list(_structures(request))
    if len(asked) > 1:
        names = " and ".join(structure.field for structure in asked)
        raise RequestError(f"{asked[0].field}: {names} contradict; send one", asked[0].field)
    return asked[0] if asked else None


def check_end(request: GenerationRequest, structure: Structure | None) -> None:
    """Raises RequestError if something else says where the answer ends."""
    for name in ("ignore_eos", "min_tokens"):
        if structure is not None and getattr(request, name):
            raise RequestError(
                f"{name}: contradicts {structure.field}, which says where an answer ends; "
                "remove one of them",
                name,
            )


def behind_reasoning(form: Format, *, is_open: bool) -> Format:
    """`form` for a model that may think first (see `parsers.reasoning`)."""
    thought = {"type": "tag", "content": {"type": "any_text"}, "end": END}
    blanks = {"type": "regex", "pattern": r"\s{0,4}"}
    if is_open:
        return sequence_of({**thought, "begin": ""}, blanks, form)
    first = sequence_of(blanks, {**thought, "begin": BEGIN}, blanks)
    return sequence_of({"type": "optional", "content": first}, form)


def any_of(*forms: Format) -> Format:
    return {"type": "or", "elements": list(forms)}


def sequence_of(*forms: Format) -> Format:
    return {"type": "sequence", "elements": list(forms)}


async def compile_structure(state: ServerState, structure: Structure | None) -> str:
    """The grammar, known to the core; empty for none. Raises RequestError if it is not sound."""
    if structure is None:
        return ""
    tag = {"type": "structural_tag", "format": structure.format}
    grammar = msgspec.json.encode(tag).decode()
    if len(grammar) > _LONGEST:
        raise RequestError(
            f"{structure.field}: {len(grammar)} characters are too many to compile; "
            f"use at most {_LONGEST}",
            structure.field,
        )
    if error := await state.core.compile(grammar):
        raise RequestError(f"{structure.field}: {error}; mend it", structure.field)
    return grammar


def check_size(field: str, schema: Any) -> None:
    """Raises RequestError if others would suffer from compiling the grammar of a schema."""
    if _nests_deeper(schema, _MOST_LEVELS):
        raise RequestError(f"{field}: nests deeper than {_MOST_LEVELS} levels; flatten it", field)
    for pattern in _patterns(schema):
        _check_pattern(field, pattern)
    if (most := max(map(_num_optional, _objects(schema)), default=0)) > _MOST_OPTIONAL:
        raise RequestError(
            f"{field}: an object has {most} properties that may be missing, more than "
            f"{_MOST_OPTIONAL}; name them in its 'required'",
            field,
        )


def json_format(schema: dict[str, Any] | bool) -> Format:
    return {"type": "json_schema", "json_schema": schema, "max_whitespace_cnt": _MOST_BLANKS}


def _structures(request: GenerationRequest) -> Iterator[Structure]:
    match request.response_format:
        case JsonObject():
            yield Structure("response_format", json_format({"type": "object"}))
        case JsonSchema(named):
            yield _schema("response_format.json_schema.schema", named.schema)
    for prefix, fields in (
        ("structured_outputs.", request.structured_outputs),
        ("guided_", request.guided),
    ):
        if fields is None:
            continue
        if fields.json is not None:
            yield _schema(f"{prefix}json", fields.json)
        if fields.regex is not None:
            yield _regex(f"{prefix}regex", fields.regex)
        if fields.choice is not None:
            yield Structure(f"{prefix}choice", _choice(fields.choice))
        if fields.grammar is not None:
            form = {"type": "grammar", "grammar": fields.grammar}
            yield Structure(f"{prefix}grammar", form)
        if fields.json_object:
            yield Structure(f"{prefix}json_object", json_format({"type": "object"}))


def _schema(field: str, schema: dict[str, Any] | str) -> Structure:
    if isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise RequestError(f"{field}: is not the JSON of an object: {error}", field) from error
    check_size(field, schema)
    if keyword := next(_unkept(schema), None):
        raise RequestError(f"{field}: the keyword {keyword!r} cannot be kept; remove it", field)
    return Structure(field, json_format(schema))


def _nests_deeper(value: Any, levels: int) -> bool:
    """Than so many levels, an empty one counted too."""
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(part, levels - 1) for part in parts)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """It and those in it."""
    if isinstance(value, dict):
        yield value
        value = [*value.values()]
    for part in value if isinstance(value, list) else ():
        yield from _objects(part)


def _patterns(schema: Any) -> Iterator[str]:
    for one in _objects(schema):
        if isinstance(pattern := one.get("pattern"), str):
            yield pattern
        if isinstance(named := one.get("patternProperties"), dict):
            yield from named


def _num_optional(schema: dict[str, Any]) -> int:
    """How many of its properties an object may lack."""
    properties, required = schema.get("properties"), schema.get("required")
    names = set(properties) if isinstance(properties, dict) else set()
    if isinstance(required, list):
        names -= {name for name in required if isinstance(name, str)}
    return len(names)


def _unkept(schema: Any) -> Iterator[str]:
    """Keywords in the schema and its parts that a grammar cannot keep."""
    if isinstance(schema, list):
        for part in schema:
            yield from _unkept(part)
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        if keyword in _UNKEPT_KEYWORDS and value is not False:
            yield keyword
        elif keyword in _NAMING_KEYWORDS and isinstance(value, dict):
            yield from _unkept(list(value.values()))
        elif keyword not in ("enum", "const", "default", "examples"):
            yield from _unkept(value)


def _check_pattern(field: str, pattern: str) -> None:
    if len(pattern) > _LONGEST_PATTERN:
        raise RequestError(
            f"{field}: a pattern has {len(pattern)} characters, more than {_LONGEST_PATTERN}; "
            "shorten it",
            field,
        )


def _regex(field: str, pattern: str) -> Structure:
    _check_pattern(field, pattern)
    if any(sign in pattern for sign in _LOOKAROUND):
        raise RequestError(f"{field}: cannot look ahead or behind; rewrite the pattern", field)
    return Structure(field, {"type": "regex", "pattern": pattern})


def _choice(texts: list[str]) -> Format:
    return any_of(*({"type": "const_string", "value": text} for text in texts))
