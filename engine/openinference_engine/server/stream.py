"""A generation as server-sent events, as OpenAI streams it: chunks, usage, `[DONE]`."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from aiohttp import web

from openinference_engine.errors import RequestError
from openinference_engine.server.generation import Generation
from openinference_engine.server.piece import Piece
from openinference_engine.server.schema import GenerationRequest
from openinference_engine.server.sse import DONE, EventStream, event
from openinference_engine.server.style import Style, error_body


async def stream(
    request: web.Request, body: GenerationRequest, generation: Generation, style: Style
) -> web.StreamResponse:
    events = await EventStream.open(request, {"X-Request-Id": request["request_id"]})
    chunks = ChunkWriter(generation, style, body)
    try:
        if body.resume is None:
            for opening in style.openings(body.n):
                await events.send(event(chunks.chunk([opening])))
        async with aclosing(generation.run()) as pieces:
            async for piece in pieces:
                if chunk := chunks.take(piece):
                    await events.send(event(chunk))
        if body.wants_usage:
            await events.send(event(chunks.chunk([], generation.usage)))
        await events.send(DONE)
    except RequestError as error:
        await events.send(event(error_body(error)))
    return await events.end()


class ChunkWriter:
    """Builds stream chunks. What shows nothing yet rides with its choice's next chunk."""

    def __init__(self, generation: Generation, style: Style, body: GenerationRequest) -> None:
        self._generation = generation
        self._style = style
        self._with_usage = body.wants_usage
        self._counts_on = body.counts_on
        self._with_ids = body.wants_token_ids
        self._untold = {prompt for prompt in generation.prompts if not prompt.is_resumed}
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
            chunk["openinference"] = self._internal(held)
        return chunk

    def _internal(self, piece: Piece) -> dict[str, Any]:
        """What the router needs to go on elsewhere; each prompt's part is told once."""
        internal: dict[str, Any] = {"token_ids": {str(piece.choice): piece.token_ids}}
        prompt = self._generation.choices[piece.choice].prompt
        if prompt in self._untold:
            self._untold.remove(prompt)
            internal["cached_tokens"] = prompt.num_cached_tokens
        return internal

    def chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, object] | None = None
    ) -> dict[str, Any]:
        chunk = self._style.chunk(self._generation, choices)
        if self._counts_on:
            usage = self._generation.usage
        return {**chunk, "usage": usage} if self._with_usage else chunk
