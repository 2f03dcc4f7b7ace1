"""The shapes of answers: chat completions and plain completions, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from openinference_engine.fold import Delta
from openinference_engine.server.generation import Generation


class Style(Protocol):
    @property
    def id_prefix(self) -> str: ...

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        """What a stream says of each choice before its first text."""

    def delta(self, index: int, delta: Delta) -> dict[str, Any]: ...

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]: ...

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]: ...

    def body(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ChatStyle:
    model_name: str
    id_prefix = "chatcmpl"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        opening = {"role": "assistant", "content": ""}
        return [self._delta(index, opening, None) for index in range(num_choices)]

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        content = {"content": delta.text} if delta.text else {}
        return self._delta(index, content, delta.finish_reason)

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": reason}

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("chat.completion.chunk", self.model_name, generation, choices)

    def body(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        frame = _frame("chat.completion", self.model_name, generation, choices)
        return {**frame, "usage": generation.usage}

    @staticmethod
    def _delta(index: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


@dataclass(frozen=True)
class CompletionStyle:
    model_name: str
    id_prefix = "cmpl"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def delta(self, index: int, delta: Delta) -> dict[str, Any]:
        return self.choice(index, delta.text, delta.finish_reason)

    def choice(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("text_completion", self.model_name, generation, choices)

    def body(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.chunk(generation, choices), "usage": generation.usage}


def _frame(
    kind: str, model_name: str, generation: Generation, choices: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": generation.id,
        "object": kind,
        "created": generation.created,
        "model": model_name,
        "choices": choices,
    }
