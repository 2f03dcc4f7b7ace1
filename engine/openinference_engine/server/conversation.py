"""What a chat is made of: messages, calls of earlier answers sent back, and tools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from openinference_engine.errors import RequestError


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    text: str


class CalledFunction(msgspec.Struct, frozen=True):
    name: str
    arguments: str = "{}"


class ToolCall(msgspec.Struct, frozen=True):
    """A call of an earlier answer, sent back."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"

    def for_template(self) -> dict[str, Any]:
        """Templates want the arguments as an object, and write them as they were taught."""
        try:
            arguments = msgspec.json.decode(self.function.arguments or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise RequestError(
                f"messages: the arguments of a call of {self.function.name!r} are not the JSON of "
                f"an object: {error}",
                "messages",
            ) from error
        function = {"name": self.function.name, "arguments": arguments}
        return {"id": self.id, "type": "function", "function": function}


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: str
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    def for_template(self) -> dict[str, Any]:
        """Templates of text models want one string. Raises RequestError if there is nothing."""
        if self.content is None and not self.tool_calls:
            raise RequestError(
                f"messages: one of the role {self.role!r} has no content; send some", "messages"
            )
        message: dict[str, Any] = {"role": self.role, "content": self._text}
        for field in ("name", "tool_call_id", "reasoning_content"):
            if value := getattr(self, field):
                message[field] = value
        if self.tool_calls:
            message["tool_calls"] = [call.for_template() for call in self.tool_calls]
        return message

    @property
    def _text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class Function(msgspec.Struct, frozen=True, omit_defaults=True):
    name: Annotated[str, Meta(pattern=r"^[\w.-]{1,64}$")]
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    strict: bool = False


class FunctionTool(msgspec.Struct, frozen=True):
    function: Function
    type: Literal["function"] = "function"


class FunctionName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class NamedChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    function: FunctionName
    type: Literal["function"] = "function"
