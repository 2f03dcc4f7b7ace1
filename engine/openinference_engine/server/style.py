"""The shapes of answers: chat completions and plain completions, whole and in chunks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

from openinference_engine.errors import RequestError
from openinference_engine.parsers.parts import CallDelta
from openinference_engine.server.generation import Generation
from openinference_engine.server.logprobs import (
    chat_logprobs,
    completion_logprobs,
    echoed_logprobs,
    prompt_logprobs,
)
from openinference_engine.server.piece import Piece


class Style(Protocol):
    @property
    def id_prefix(self) -> str: ...

    @property
    def operation(self) -> str:
        """What OpenTelemetry calls it."""

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        """What a stream says of each choice before its first text."""

    def delta(self, generation: Generation, piece: Piece) -> dict[str, Any]: ...

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]: ...

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ChatStyle:
    model_name: str
    id_prefix = "chatcmpl"
    operation = "chat"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        opening = {"role": "assistant", "content": ""}
        return [_chat_delta(opening, Piece(index)) for index in range(num_choices)]

    def delta(self, generation: Generation, piece: Piece) -> dict[str, Any]:
        calls = [
            {"index": call.index, **_call(generation, piece.choice, call)}
            for call in _merged(piece.calls)
        ]
        said = {
            "content": piece.text,
            "reasoning_content": piece.reasoning,
            "tool_calls": calls,
        }
        delta = _chat_delta({name: value for name, value in said.items() if value}, piece)
        return delta | _token_ids(generation, piece)

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("chat.completion.chunk", self.model_name, generation, choices)

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]:
        choices = [_chat_choice(generation, answer) for answer in answers]
        body = _frame("chat.completion", self.model_name, generation, choices)
        if generation.shows_token_ids:
            body["prompt_token_ids"] = generation.prompts[0].token_ids
        if generation.rates_prompt:
            body["prompt_logprobs"] = prompt_logprobs(generation.prompts[0].rated)
        return {**body, "usage": generation.usage}


@dataclass(frozen=True)
class CompletionStyle:
    model_name: str
    echoes: bool = False  # its prompt stands before each answer
    id_prefix = "cmpl"
    operation = "text_completion"

    def openings(self, num_choices: int) -> list[dict[str, Any]]:
        return []

    def delta(self, generation: Generation, piece: Piece) -> dict[str, Any]:
        choice = {
            "index": piece.choice,
            "text": piece.text,
            "logprobs": completion_logprobs(piece.rated),
            "finish_reason": piece.finish_reason,
        }
        return choice | _token_ids(generation, piece)

    def chunk(self, generation: Generation, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return _frame("text_completion", self.model_name, generation, choices)

    def body(self, generation: Generation, answers: list[Piece]) -> dict[str, Any]:
        choices = [self._choice(generation, answer) for answer in answers]
        return {**self.chunk(generation, choices), "usage": generation.usage}

    def _choice(self, generation: Generation, answer: Piece) -> dict[str, Any]:
        choice = self.delta(generation, answer)
        prompt = generation.choices[answer.choice].prompt
        if self.echoes:
            choice["logprobs"] = echoed_logprobs(
                prompt.text, prompt.start, prompt.rated, answer.rated
            )
        if generation.shows_token_ids:
            choice["prompt_token_ids"] = prompt.token_ids
        if generation.rates_prompt:
            choice["prompt_logprobs"] = prompt_logprobs(prompt.rated)
        return choice


def _chat_choice(generation: Generation, answer: Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            _call(generation, answer.choice, call) for call in _merged(answer.calls)
        ]
    choice = {
        "index": answer.choice,
        "message": message,
        "logprobs": chat_logprobs(answer.rated),
        "finish_reason": answer.finish_reason,
    }
    return choice | _token_ids(generation, answer)


def _call(generation: Generation, choice: int, call: CallDelta) -> dict[str, Any]:
    """A call, or the next piece of its arguments; its first one says what is called."""
    if call.name is None:
        return {"function": {"arguments": call.arguments}}
    return {
        "id": generation.call_id(choice, call.index),
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def _token_ids(generation: Generation, piece: Piece) -> dict[str, Any]:
    return {"token_ids": piece.token_ids} if generation.shows_token_ids else {}


def _merged(calls: list[CallDelta]) -> list[CallDelta]:
    """One delta for each call, in order."""
    merged: list[CallDelta] = []
    for call in calls:
        if merged and merged[-1].index == call.index:
            whole = merged[-1].arguments + call.arguments
            merged[-1] = replace(merged[-1], arguments=whole)
        else:
            merged.append(call)
    return merged


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


def error_body(error: RequestError) -> dict[str, Any]:
    """OpenAI's object for whatever was refused or failed."""
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.field,
            "code": error.code,
        }
    }
