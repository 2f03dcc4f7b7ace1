"""Chat templates: the jinja2 text a model ships, run in a sandbox.

A template is untrusted input: it gets an immutable sandbox and the names below, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openinference_engine.errors import RequestError, StartError


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What is told to a template beside the messages."""

    tools: Sequence[dict[str, Any]] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)  # of the template's own
    adds_generation_prompt: bool = True
    continues_last: bool = False  # the last message is the beginning of the answer


class ChatTemplate:
    """`special_tokens`: names a template may use, such as bos_token and eos_token."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        self._template = _compile(source)
        self.special_tokens = special_tokens

    @property
    def knows_tools(self) -> bool:
        return "tools" in self.source

    def render(self, messages: Sequence[dict[str, Any]], options: ChatOptions) -> str:
        """The prompt up to where the assistant speaks. Raises RequestError if refused."""
        values = {
            **options.variables,
            **self.special_tokens,
            "messages": messages,
            "tools": options.tools or None,
            "add_generation_prompt": options.adds_generation_prompt,
        }
        try:
            text = self._template.render(values)
        except Exception as error:  # whatever a model's own program may raise
            raise RequestError(
                f"messages: the model's chat template refuses them: {error}", "messages"
            ) from error
        return _open_last(text, messages[-1]["content"]) if options.continues_last else text


def _open_last(text: str, content: str) -> str:
    """Cuts off what the template writes behind the last message, which is to go on."""
    end = text.rfind(content.strip())
    if end < 0 or not content.strip():
        raise RequestError(
            "continue_final_message: the template does not show the last message; remove the field",
            "continue_final_message",
        )
    return text[: end + len(content.strip())]


def _compile(source: str) -> Template:
    """Raises StartError if the template is broken, so that it is told at start."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise StartError(f"the model's chat template is broken: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    """Plain JSON: jinja2's own filter escapes for HTML, which models were not trained on."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)
