"""From the bytes of a body to a validated request, or a refusal naming field, value and remedy.

Fields that clients know and this engine has no behaviour for are accepted at the value that asks
for nothing and refused otherwise; none is ignored silently.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from openinference_engine.errors import RequestError

# Fields of the OpenAI API and its common extensions that this engine does not act on yet, each with
# the values that ask for nothing.
_OFF_VALUES: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "function_call": ("none",),
    "functions": ([],),
    "length_penalty": (1,),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}

_REMEDIES = {
    "chat_template": "a template is code, and only the model's own runs; remove the field",
    "functions": "send `tools`",
    "function_call": "send `tool_choice`",
    "suffix": "no model that is served here learnt to fill a middle; remove the field",
}

# Where clients write null for what they leave out (and our own answers, sent back, say `refusal:
# null`), and how many levels down: below lie schemas, in which null is a value.
_NULL_LEVELS = {"messages": 4, "tools": 3, "response_format": 2, "stream_options": 1}

RequestType = TypeVar("RequestType", bound=msgspec.Struct)


def parse(body: bytes, kind: type[RequestType]) -> RequestType:
    """A validated request. Raises RequestError naming field, value and remedy."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RequestError(f"the body is a JSON {type(fields).__name__}; send an object")
    given = _without_nulls(fields, 1)
    for name, levels in _NULL_LEVELS.items():
        if name in given:
            given[name] = _without_nulls(given[name], levels)
    known = kind.__struct_fields__
    for name in given.keys() - set(known):
        _refuse_unless_off(name, given[name])
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise _explain(error, given) from error


def _without_nulls(value: Any, levels: int) -> Any:
    """Of lists and objects down to so many levels, those fields that are not null."""
    if levels == 0:
        return value
    if isinstance(value, list):
        return [_without_nulls(one, levels - 1) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _without_nulls(one, levels - 1) for name, one in value.items() if one is not None}


def _refuse_unless_off(name: str, value: Any) -> None:
    if name not in _OFF_VALUES:
        raise RequestError(f"{name}: this field is unknown; remove it", name)
    if value not in _OFF_VALUES[name]:
        shown = msgspec.json.encode(value).decode()[:100]
        remedy = _REMEDIES.get(name, "remove the field")
        raise RequestError(f"{name}: {shown} is not supported; {remedy}", name)


def _explain(error: msgspec.ValidationError, fields: dict[str, Any]) -> RequestError:
    """`Expected int <= 2 - at $.n` → `n: 3 is not allowed; expected int <= 2`."""
    reason, _, place = str(error).partition(" - at `$")
    path = place.strip(".`")
    if not path:
        return RequestError(f"{reason[0].lower()}{reason[1:]}", _missing_field(reason))
    value = _value_at(fields, path)
    shown = msgspec.json.encode(value).decode()[:100]
    return RequestError(f"{path}: {shown} is not allowed; {reason[0].lower()}{reason[1:]}", path)


def _missing_field(reason: str) -> str | None:
    """The field in `Object missing required field \\`model\\``."""
    parts = reason.split("`")
    return parts[1] if len(parts) > 1 else None


def _value_at(value: Any, path: str) -> Any:
    """Follows `messages[0].role`; where the path says `[...]` (any key), the whole is shown."""
    for step in path.replace("[", ".[").split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.strip("[]").isdigit():
            value = value[int(step.strip("[]"))]
    return value
