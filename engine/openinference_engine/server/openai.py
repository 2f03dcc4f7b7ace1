"""The OpenAI endpoints: chat completions, completions and the list of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

from aiohttp import web

from openinference_engine.errors import RequestError
from openinference_engine.server.begin import begin_chat, begin_completion
from openinference_engine.server.generation import Generation
from openinference_engine.server.params import check_model
from openinference_engine.server.piece import Piece
from openinference_engine.server.schema import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    parse,
)
from openinference_engine.server.sse import DONE, event, open_stream
from openinference_engine.server.state import STATE, ServerState
from openinference_engine.server.style import ChatStyle, CompletionStyle, Style


async def chat_completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = parse(await request.read(), ChatRequest)
    _check(state, body)
    with state.admit(body.n):
        generation = await begin_chat(state, body)
        return await _answer(request, body, generation, ChatStyle(state.model_name))


async def completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = parse(await request.read(), CompletionRequest)
    _check(state, body)
    with state.admit(body.n):
        generation = await begin_completion(state, body)
        return await _answer(request, body, generation, CompletionStyle(state.model_name))


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
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> web.StreamResponse:
    with _traced(request, body, generation, style):
        if body.stream:
            return await _stream(request, body, generation, style)
        return await _respond(generation, style)


@contextmanager
def _traced(
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> Iterator[None]:
    tracing = request.app[STATE].tracing
    try:
        yield
    finally:
        if tracing is not None:
            tracing.record(request.headers, style.operation, body, generation)


def _check(state: ServerState, body: GenerationRequest) -> None:
    """Refuses what the schema cannot see."""
    check_model(state, body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only allowed with stream: true", "stream_options")
    if isinstance(body, ChatRequest) and body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs: only allowed with logprobs: true", "top_logprobs")
    if body.prompt_logprobs is not None and body.stream:
        raise RequestError(
            "prompt_logprobs: a stream carries none; set stream: false", "prompt_logprobs"
        )
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
    return web.json_response(style.body(generation, await generation.collect()))


async def _stream(
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> web.StreamResponse:
    response = await open_stream(request, {"X-Request-Id": request["request_id"]})
    chunks = ChunkWriter(generation, style, body)
    try:
        if body.resume is None:
            for opening in style.openings(body.n):
                await response.write(event(chunks.chunk([opening])))
        async with aclosing(generation.run()) as pieces:
            async for piece in pieces:
                if chunk := chunks.take(piece):
                    await response.write(event(chunk))
        if body.wants_usage:
            await response.write(event(chunks.chunk([], generation.usage)))
        await response.write(DONE)
    except RequestError as error:
        await response.write(event(error_body(error)))
    await response.write_eof()
    return response


class ChunkWriter:
    """Builds stream chunks. What shows nothing yet rides with its choice's next chunk."""

    def __init__(self, generation: Generation, style: Style, body: GenerationRequest) -> None:
        self._generation = generation
        self._style = style
        self._with_usage = body.wants_usage
        self._counts_on = body.counts_on
        self._with_ids = body.wants_token_ids
        self._held: dict[int, Piece] = {}

    def take(self, piece: Piece) -> dict[str, Any] | None:
        """The chunk that a piece completes, or None while its text is held back."""
        held = self._held.setdefault(piece.choice, Piece(piece.choice))
        held.extend(piece)
        if not held.is_visible:
            return None
        del self._held[piece.choice]
        chunk = self.chunk([self._style.delta(self._generation, held)])
        if self._with_ids:
            chunk["openinference"] = {"token_ids": {str(held.choice): held.token_ids}}
        return chunk

    def chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None
    ) -> dict[str, Any]:
        chunk = self._style.chunk(self._generation, choices)
        if self._counts_on:
            usage = self._generation.usage
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
