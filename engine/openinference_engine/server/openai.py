"""The OpenAI endpoints: chat completions, completions and the list of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from openinference_engine.server.answer import answer
from openinference_engine.server.begin import begin_chat, begin_completion, check
from openinference_engine.server.body import read
from openinference_engine.server.generation import Generation
from openinference_engine.server.schema import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
)
from openinference_engine.server.state import STATE
from openinference_engine.server.stream import stream
from openinference_engine.server.style import ChatStyle, CompletionStyle, Style


async def chat_completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = await read(request, ChatRequest)
    check(state, body)
    with state.admit(body.num_choices):
        generation = await begin_chat(state, body)
        return await _answer(request, body, generation, ChatStyle(state.model_name))


async def completions(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = await read(request, CompletionRequest)
    check(state, body)
    with state.admit(body.num_choices):
        generation = await begin_completion(state, body)
        style = CompletionStyle(state.model_name, body.echo)
        return await _answer(request, body, generation, style)


async def models(request: web.Request) -> web.Response:
    state = request.app[STATE]
    card = {
        "id": state.model_name,
        "object": "model",
        "created": state.started_at,
        "owned_by": "openinference",
        "max_model_len": state.core.loaded.max_model_len if state.core.loaded else None,
    }
    return answer({"object": "list", "data": [card]})


async def _answer(
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> web.StreamResponse:
    with _traced(request, body, generation, style):
        if body.stream:
            return await stream(request, body, generation, style)
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


async def _respond(generation: Generation, style: Style) -> web.Response:
    return answer(style.body(generation, await generation.collect()))
