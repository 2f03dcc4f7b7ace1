"""The shapes of answers: chat completions and plain completions, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from openinference_engine.server.generation import Generation
from openinference_engine.server.logprobs import (
    chat_logprobs,
    completion_logprobs,
    prompt_logprobs,
)
from openinference_engine.server.piece import Piece


class Style(Protocol):
    @property
    def id_prefix(self) -> str: ...

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        """What a stream says of each choice before its first text."""

    def delta(self, piece: Piece) -> dict[str, Any]: ...

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]: ...

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ChatStyle:
    model_name: str
    id_prefix = "chatcmpl"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        opening = {"role": "assistant", "content": ""}
        return [_chat_delta(opening, Piece(index)) for index in range(num_choices)]

    def delta(self, piece: Piece) -> dict[str, Any]:
        return _chat_delta({"content": piece.text} if piece.text else {}, piece)

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("chat.completion.chunk", self.model_name, generation, choices)

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]:
        choices = [_chat_choice(answer) for answer in answers]
        body = _frame("chat.completion", self.model_name, generation, choices)
        if generation.rates_prompt:
            body["prompt_logprobs"] = prompt_logprobs(generation.prompt_rated)
        return {**body, "usage": generation.usage}


@dataclass(frozen=True)
class CompletionStyle:
    model_name: str
    id_prefix = "cmpl"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def delta(self, piece: Piece) -> dict[str, Any]:
        return {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": completion_logprobs(piece.rated),
            "finish_reason": piece.finish_reason,
        }

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("text_completion", self.model_name, generation, choices)

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]:
        choices = [self.delta(answer) for answer in answers]
        if generation.rates_prompt:
            choices[0]["prompt_logprobs"] = prompt_logprobs(generation.prompt_rated)
        return {**self.chunk(generation, choices), "usage": generation.usage}


def _chat_choice(answer: Piece) -> dict[str, Any]:
    return {
        "index": answer.choice,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": chat_logprobs(answer.rated),
        "finish_reason": answer.finish_reason,
    }


def _chat_delta(delta: dict[str, Any], piece: Piece) -> dict[str, Any]:
    return {
        "index": piece.choice,
        "delta": delta,
        "logprobs": chat_logprobs(piece.rated),
        "finish_reason": piece.finish_reason,
    }


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
