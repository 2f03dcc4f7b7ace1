"""Chat templates: the jinja2 text a model ships, run in a sandbox.

A template is untrusted input: it gets an immutable sandbox and the names below, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openinference_engine.errors import RequestError, StartError


class ChatTemplate:
    """`special_tokens`: names a template may use, such as bos_token and eos_token."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self.source = source
        self._template = _compile(source)
        self._special_tokens = special_tokens

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The prompt up to where the assistant speaks. Raises RequestError if refused."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, **self._special_tokens
            )
        except Exception as error:  # whatever a model's own program may raise
            raise RequestError(
                f"messages: the model's chat template refuses them: {error}", "messages"
            ) from error


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
