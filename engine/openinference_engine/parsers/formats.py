"""How families of models write tool calls. The chat template shows which one a model was taught."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CallFormatName = Literal["hermes", "llama3", "mistral", "mistral-args"]


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A call is `begin`, then a JSON object (or a name and an object), then `end`.

    head, tail: what stands around the arguments where a grammar makes the model call, with the
    tool's name for `%s`.
    """

    name: CallFormatName
    begin: str
    end: str
    head: str
    tail: str
    argument_key: str = "arguments"
    opening: str = ""  # letters that may stand before the first call
    separators: str = ""  # letters that may stand between calls; empty: each has its own sign
    separator: str = ""  # what a grammar writes between calls
    prefix: str = ""  # and before the first
    suffix: str = ""  # and behind the last
    begins_bare: bool = False  # an answer that begins with an object is a call
    has_special_signs: bool = False  # which decoding must keep
    call_id_length: int = 24


HERMES = CallFormat(
    "hermes",
    begin="<tool_call>",
    end="</tool_call>",
    head='<tool_call>\n{"name": "%s", "arguments": ',
    tail="}\n</tool_call>",
    separator="\n",
)
LLAMA3 = CallFormat(
    "llama3",
    begin="<|python_tag|>",
    end="",
    head='{"name": "%s", "parameters": ',
    tail="}",
    argument_key="parameters",
    separators=";,",
    separator="; ",
    begins_bare=True,
    has_special_signs=True,
)
MISTRAL = CallFormat(
    "mistral",
    begin="[TOOL_CALLS]",
    end="",
    head='{"name": "%s", "arguments": ',
    tail="}",
    opening="[",
    separators=",]",
    separator=", ",
    prefix="[TOOL_CALLS][",
    suffix="]",
    has_special_signs=True,
    call_id_length=9,  # the template refuses others
)
MISTRAL_ARGS = CallFormat(
    "mistral-args",
    begin="[TOOL_CALLS]",
    end="",
    head="[TOOL_CALLS]%s[ARGS]",
    tail="",
    has_special_signs=True,
    call_id_length=9,
)
FORMATS = {form.name: form for form in (HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS)}


def format_of(template: str) -> CallFormat:
    """What the template shows; Hermes' form where it shows none."""
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<|python_tag|>" in template or '"parameters": ' in template:
        return LLAMA3
    return HERMES
