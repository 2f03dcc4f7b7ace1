"""Which tools an answer may or must call, and the grammar that keeps it to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from openinference_engine.errors import RequestError
from openinference_engine.parsers.formats import CallFormat
from openinference_engine.server.conversation import FunctionTool, NamedChoice
from openinference_engine.server.schema import ChatRequest
from openinference_engine.server.structure import (
    Format,
    any_of,
    check_size,
    json_format,
    sequence_of,
)


@dataclass(frozen=True, slots=True)
class ToolUse:
    form: CallFormat
    tools: list[FunctionTool]  # that may be called
    must_call: bool
    may_call_many: bool

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.function.name for tool in self.tools)

    @property
    def for_template(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(tool) for tool in self.tools]

    @property
    def calls_format(self) -> Format:
        """One call or, where allowed, several, and nothing else."""
        calls = {
            "type": "tags_with_separator",
            "tags": [self._tag(tool) for tool in self.tools],
            "separator": self.form.separator,
            "at_least_one": True,
            "stop_after_first": not self.may_call_many,
        }
        if not self.form.prefix:
            return calls
        prefix, suffix = (
            {"type": "const_string", "value": text} for text in (self.form.prefix, self.form.suffix)
        )
        return sequence_of(prefix, calls, suffix)

    @property
    def wants_grammar(self) -> bool:
        """Else the model is trusted to call, or not to, as it was taught."""
        is_strict = any(tool.function.strict for tool in self.tools)
        return self.must_call or is_strict or not self.may_call_many

    @property
    def grammar_format(self) -> Format:
        """Text in which calls may come, with the arguments of strict tools held to their schema."""
        if self.must_call:
            return self.calls_format
        if self.form.begins_bare:
            plain = [{"type": "regex", "pattern": r"[^{\s]"}, {"type": "any_text"}]
            return any_of(self.calls_format, sequence_of(*plain))
        tags = [self._tag(tool, self.form.prefix, self.form.suffix) for tool in self.tools]
        return {
            "type": "triggered_tags",
            "triggers": [self.form.begin],
            "tags": tags,
            "stop_after_first": not self.may_call_many,
        }

    def _tag(self, tool: FunctionTool, prefix: str = "", suffix: str = "") -> Format:
        is_held = self.must_call or tool.function.strict
        schema = tool.function.parameters if is_held else {"type": "object"}
        check_size("tools", schema)
        return {
            "type": "tag",
            "begin": prefix + self.form.head % tool.function.name,
            "content": json_format(schema),
            "end": self.form.tail + suffix,
        }


def tool_use(request: ChatRequest, form: CallFormat) -> ToolUse | None:
    """None: nothing may be called. Raises RequestError if tools and choice contradict."""
    choice = request.tool_choice
    names = [tool.function.name for tool in request.tools]
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"tools: two are named {name!r}; rename one", "tools")
    if not names and (choice == "required" or isinstance(choice, NamedChoice)):
        raise RequestError(
            "tool_choice: there are no tools to choose from; send tools", "tool_choice"
        )
    if not names or choice == "none":
        return None
    if not isinstance(choice, NamedChoice):
        return ToolUse(form, request.tools, choice == "required", request.parallel_tool_calls)
    chosen = [tool for tool in request.tools if tool.function.name == choice.function.name]
    if not chosen:
        raise RequestError(
            f"tool_choice: {choice.function.name!r} is none of the tools; use one of {names}",
            "tool_choice",
        )
    return ToolUse(form, chosen, must_call=True, may_call_many=False)
