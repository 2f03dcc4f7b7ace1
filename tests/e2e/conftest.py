"""A small OpenAI server at the border that misbehaves on request.

The traffic driver must tell each way of failing from the others, so there has to be a server
that fails in each of these ways. `behaviour` decides.
"""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

WORDS = ("One", " two", " three")


class ScriptedService:
    """Answers every prompt with three words; `behaviour` says what goes wrong with it."""

    def __init__(self) -> None:
        self.behaviour = "well"
        self.good_answers_first = 0
        self.headers = {"x-openinference-group": "demo-1a2b3c4d-0"}  # of streams
        self.release = asyncio.Event()  # what `hold` waits for between first and last word
        self.bodies: list[dict] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        behaviour = "well" if len(self.bodies) <= self.good_answers_first else self.behaviour
        if refusal := _refusal(behaviour):
            return refusal
        if behaviour == "hang":
            await asyncio.Event().wait()
        if body.get("stream"):
            return await self._stream(request, behaviour)
        return web.json_response(_whole(behaviour, request.path))

    async def _stream(self, request: web.Request, behaviour: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=self.headers)
        await response.prepare(request)
        for number, event in enumerate(_events(behaviour, request.path)):
            if behaviour == "hold" and number == 1:
                await self.release.wait()
            if behaviour == "cut" and number == 2:
                request.transport.close()
                return response
            await response.write(b"data: " + event.encode() + b"\n\n")
        return response


def _refusal(behaviour: str) -> web.Response | None:
    if behaviour not in ("429", "503", "500", "404"):
        return None
    error = {"error": {"message": "not now", "type": "overloaded", "code": None}}
    return web.json_response(error, status=int(behaviour))


def _events(behaviour: str, path: str) -> list[str]:
    words = ("One", " too", " three") if behaviour == "wrong text" else WORDS
    tokens = 4 if behaviour == "wrong usage" else 3
    key = "delta" if path.endswith("chat/completions") else None
    finish = {"index": 0, "finish_reason": "stop"} | ({"delta": {}} if key else {"text": ""})
    events = [json.dumps({"choices": [_choice(word, key)]}) for word in words]
    ends = {
        "no finish": json.dumps({"choices": [finish]}),
        "no usage": json.dumps({"choices": [], "usage": {"completion_tokens": tokens}}),
        "no done": "[DONE]",
    }
    if behaviour == "error":
        return [events[0], json.dumps({"error": {"message": "the engine went away"}})]
    if behaviour == "rubbish":
        return [events[0], "{not json"]
    return [*events, *(event for name, event in ends.items() if name != behaviour)]


def _choice(text: str, key: str | None) -> dict:
    return {"index": 0, key: {"content": text}} if key else {"index": 0, "text": text}


def _whole(behaviour: str, path: str) -> dict:
    text = "One too three" if behaviour == "wrong text" else "".join(WORDS)
    key = "message" if path.endswith("chat/completions") else None
    return {
        "choices": [_choice(text, key) | {"finish_reason": "stop"}],
        "usage": {"completion_tokens": 4 if behaviour == "wrong usage" else 3},
    }


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    """The scripted service, listening; its address is `service.url`."""
    scripted = ScriptedService()
    application = web.Application()
    application.router.add_post("/v1/chat/completions", scripted.answer)
    application.router.add_post("/v1/completions", scripted.answer)
    application.router.add_get("/v1/models", _models)
    async with TestServer(application) as server:
        scripted.url = str(server.make_url("")).rstrip("/")
        yield scripted


async def _models(request: web.Request) -> web.Response:
    return web.json_response({"data": [{"id": "scripted"}]})
