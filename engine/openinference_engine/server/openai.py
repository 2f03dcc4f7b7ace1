"""The OpenAI endpoints: chat completions, completions and the list of models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from openinference_engine.errors import ModelNotFound, RequestError
from openinference_engine.server.generation import ChoiceDelta, Generation
from openinference_engine.server.params import check_size
from openinference_engine.server.schema import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    parse,
)
from openinference_engine.server.sse import DONE, event, open_stream
from openinference_engine.server.state import STATE, ServerState
from openinference_engine.server.style import ChatStyle, CompletionStyle, Style
from openinference_engine.tokenizer.tokenizer import Tokenizer

_LONG_TEXT = 4096  # characters; longer ones are encoded off the event loop


async def chat_completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = parse(await request.read(), ChatRequest)
    messages = [message.for_template() for message in body.messages]
    size = sum(len(message["content"]) for message in messages)
    return await _answer(
        request,
        state,
        body,
        lambda tokenizer: tokenizer.encode_chat(messages),
        size,
        ChatStyle(state.model_name),
    )


async def completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = parse(await request.read(), CompletionRequest)
    prompt = body.prompt
    return await _answer(
        request,
        state,
        body,
        lambda tokenizer: tokenizer.encode(prompt) if isinstance(prompt, str) else prompt,
        len(prompt),
        CompletionStyle(state.model_name),
    )


async def models(request: web.Request) -> web.Response:
    state = request.app[STATE]
    card = {
        "id": state.model_name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "openinference",
        "max_model_len": state.core.loaded.max_model_len if state.core.loaded else None,
    }
    return web.json_response({"object": "list", "data": [card]})


async def _answer(
    request: web.Request,
    state: ServerState,
    body: GenerationRequest,
    encode: Callable[[Tokenizer], list[int]],
    prompt_size: int,
    style: Style,
) -> web.StreamResponse:
    _check(state, body)
    with state.admit(body.n):
        check_size(state, body, prompt_size)
        if prompt_size > _LONG_TEXT:
            prompt_ids = await asyncio.to_thread(encode, state.front_or_refuse.tokenizer)
        else:
            prompt_ids = encode(state.front_or_refuse.tokenizer)
        generation = Generation(state, body, prompt_ids, style.id_prefix)
        if body.stream:
            return await _stream(request, body, generation, style)
        return await _respond(generation, style)


def _check(state: ServerState, body: GenerationRequest) -> None:
    """Refuses what the schema cannot see."""
    if body.model != state.model_name:
        raise ModelNotFound(
            f"model: {body.model!r} is not served here; use {state.model_name!r}", "model"
        )
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only allowed with stream: true", "stream_options")
    if body.openinference is None:
        return
    if state.server.token is None:
        raise RequestError(
            "openinference: internal field; it needs a server with a token", "openinference"
        )
    if body.resume is not None and (not body.stream or body.seed is None):
        raise RequestError(
            "openinference.resume: needs stream: true and the seed of the first request",
            "openinference.resume",
        )


async def _respond(generation: Generation, style: Style) -> web.Response:
    texts = [""] * len(generation.choices)
    async with aclosing(generation.run()) as items:
        async for item in items:
            texts[item.choice] += item.delta.text
    choices = [
        style.choice(index, text, generation.choices[index].fold.finish_reason)
        for index, text in enumerate(texts)
    ]
    return web.json_response(style.body(generation, choices))


async def _stream(
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> web.StreamResponse:
    response = await open_stream(request, {"X-Request-Id": request["request_id"]})
    chunks = ChunkWriter(generation, style, body.wants_usage, body.wants_token_ids)
    try:
        if body.resume is None:
            for opening in style.openings(body.n):
                await response.write(event(chunks.chunk([opening])))
        async with aclosing(generation.run()) as items:
            async for item in items:
                if chunk := chunks.take(item):
                    await response.write(event(chunk))
        if body.wants_usage:
            await response.write(event(chunks.chunk([], generation.usage)))
        await response.write(DONE)
    except RequestError as error:
        await response.write(event(error_body(error)))
    await response.write_eof()
    return response


class ChunkWriter:
    """Builds stream chunks. Ids whose text is held back ride with their choice's next chunk."""

    def __init__(
        self, generation: Generation, style: Style, with_usage: bool, with_ids: bool
    ) -> None:
        self._generation = generation
        self._style = style
        self._with_usage = with_usage
        self._with_ids = with_ids
        self._ids: dict[int, list[int]] = {}

    def take(self, item: ChoiceDelta) -> dict[str, Any] | None:
        """The chunk that an id brings, or None while its text is held back."""
        ids = self._ids.setdefault(item.choice, [])
        if item.token_id is not None:
            ids.append(item.token_id)
        if not item.delta.text and item.delta.finish_reason is None:
            return None
        chunk = self.chunk([self._style.delta(item.choice, item.delta)])
        if self._with_ids:
            chunk["openinference"] = {"token_ids": {str(item.choice): self._ids.pop(item.choice)}}
        return chunk

    def chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None
    ) -> dict[str, Any]:
        chunk = self._style.chunk(self._generation, choices)
        return {**chunk, "usage": usage} if self._with_usage else chunk


def error_body(error: RequestError) -> dict[str, Any]:
    return {
        "error": {
            "message": error.message,
            "type": error.kind,
            "param": error.field,
            "code": error.code,
        }
    }
