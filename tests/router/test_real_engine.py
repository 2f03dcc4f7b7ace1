"""The router as a process in front of real engines, watched from a client's chair."""

import asyncio
import json

import aiohttp
import pytest


async def collect(response: aiohttp.ClientResponse) -> list[dict]:
    """The chunks of a stream that must end with [DONE]."""
    lines = [line async for line in response.content if line.startswith(b"data: ")]
    assert lines[-1] == b"data: [DONE]\n", lines[-1]
    return [json.loads(line[6:]) for line in lines[:-1]]


def text_of(chunks: list[dict]) -> str:
    return "".join(
        chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]
    )


def body(**changes) -> dict:
    return {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
        "max_tokens": 24,
        "stream": True,
        "temperature": 0,
        **changes,
    }


@pytest.fixture
async def front(api_server, start_router, engines, make_routing):
    """A ready router that has admitted both engines."""
    for engine in engines:
        if engine.process.popen.poll() is not None:
            await engine.restart()
    api_server.put_routing(make_routing(*(engine.routed for engine in engines)))
    router = start_router(endpoint_pause_seconds=0.2, keep_alive_seconds=0.3)
    await router.ready()
    await router.admitted(2)
    return router


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


async def test_streamed_and_whole_answers_say_the_same(front, client):
    url = f"{front.url}/v1/chat/completions"
    async with client.post(url, json=body()) as response:
        chunks = await collect(response)
    async with client.post(url, json=body(stream=False)) as response:
        whole = await response.json()
    assert text_of(chunks) == whole["choices"][0]["message"]["content"] != ""
    assert not any("openinference" in chunk for chunk in chunks)
