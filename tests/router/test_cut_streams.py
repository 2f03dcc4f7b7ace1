"""Streams of real engines over a network that cuts connections anywhere, again and again.

What a client then sees must equal the undisturbed stream in text, finish reasons, usage and
identity: the seam may fall inside a character, a stop string or between two choices.
"""

import asyncio
import contextlib
import json
import os
import random
from collections import Counter, defaultdict

import aiohttp
import pytest

SEED = 20260101
NUM_STREAMS = int(os.environ.get("CUT_STREAMS", "30"))  # `make campaign` cuts more
MAX_OPEN = 8
MIN_BYTES = 1_500
MAX_BYTES = 12_000  # a stream has about eight thousand

PROMPTS = ["Tell me about the sea.", "Count from one to twenty.", "数字を数えてください。🌊"]

SCHEMA = {
    "json_schema": {
        "name": "city",
        "schema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 40},
                "size": {"type": "integer"},
            },
            "required": ["name", "size"],
        },
    }
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 40}},
                "required": ["city"],
            },
        },
    }
]
WAYS = {
    "greedy": {"temperature": 0},
    "seeded": {"temperature": 1.2},
    "two choices": {"n": 2, "temperature": 1},
    "stop strings": {"temperature": 0, "stop": [" the sea", "e, ", "\n\n"]},
    "penalties": {"temperature": 0.7, "presence_penalty": 1, "frequency_penalty": 0.5},
    "minimum": {"temperature": 0, "min_tokens": 20},
    "logprobs": {"temperature": 1, "logprobs": True, "top_logprobs": 3, "stop": ["e, "]},
    "json schema": {"temperature": 1, "response_format": {"type": "json_schema", **SCHEMA}},
    "tools": {"temperature": 1, "tools": TOOLS, "tool_choice": "required", "max_tokens": 40},
    "several prompts": {
        "prompt": [PROMPTS[2], "The sea", PROMPTS[2]],
        "n": 2,
        "echo": True,
        "temperature": 1,
        "max_tokens": 10,
    },
}


def request(number: int) -> dict:
    way = list(WAYS.values())[number % len(WAYS)]
    messages = [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}]
    return {
        "model": "smollm2",
        **({} if "prompt" in way else {"messages": messages}),
        "max_tokens": 24,
        "return_token_ids": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": number,
        **way,
    }


class CuttingNetwork:
    """A TCP way to one engine; each connection that carries answers is cut somewhere."""

    def __init__(self, tasks: asyncio.TaskGroup, target: str) -> None:
        self._tasks = tasks
        self._host, self._port = target.removeprefix("http://").split(":")
        self._random = random.Random(SEED)
        self.cuts = 0

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.create_task(self._serve(reader, writer))

    def _some_bytes(self) -> int:
        """Seldom less than a first event: a request that gets nowhere five times is given up."""
        if self._random.random() < 0.15:
            return self._random.randint(1, MIN_BYTES)
        return self._random.randint(MIN_BYTES, MAX_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        engine_reader, engine_writer = await asyncio.open_connection(self._host, self._port)
        head = await reader.read(65536)
        engine_writer.write(head)
        is_answer = head.startswith(b"POST")
        bytes_left = self._some_bytes() if is_answer else None
        up = asyncio.create_task(forward(reader, engine_writer, None))
        down = asyncio.create_task(forward(engine_reader, writer, bytes_left))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        writer.transport.abort()
        engine_writer.transport.abort()
        self.cuts += (await asyncio.gather(up, down))[1]


async def forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_left: int | None
) -> bool:
    """Copy until the end; True when it was cut before."""
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            if bytes_left is not None and len(data) >= bytes_left:
                writer.write(data[:bytes_left])
                await writer.drain()
                return True
            bytes_left = None if bytes_left is None else bytes_left - len(data)
            writer.write(data)
            await writer.drain()
    return False


@pytest.fixture
async def networks(engines):
    """Two unreliable ways to each of two engines."""
    for engine in engines:
        if engine.process.popen.poll() is not None:
            await engine.restart()
    async with asyncio.TaskGroup() as tasks:
        ways, servers = [], []
        for engine in [*engines, *engines]:
            network = CuttingNetwork(tasks, engine.url)
            servers.append(await asyncio.start_server(network.accept, "127.0.0.1", 0))
            port = servers[-1].sockets[0].getsockname()[1]
            ways.append((network, f"http://127.0.0.1:{port}"))
        yield ways
        for server in servers:
            server.close()


def told(chunks: list[dict]) -> dict:
    """What a client learns from a stream, whatever chunks it came in."""
    texts, finishes, roles = defaultdict(str), {}, Counter()
    num_call_ids: Counter[int] = Counter()
    ids, logprobs, calls = defaultdict(list), defaultdict(list), defaultdict(str)
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        index, delta = choice["index"], choice.get("delta", {})
        texts[index] += delta.get("content", choice.get("text", ""))
        ids[index] += choice.get("token_ids", [])
        logprobs[index] += (choice["logprobs"] or {}).get("content", [])
        for call in delta.get("tool_calls", []):
            calls[index, call["index"]] += call["function"].get("name", "")
            calls[index, call["index"]] += call["function"]["arguments"]
            num_call_ids[index] += "id" in call  # made of the answer's id, so no two are equal
        roles[index] += "role" in delta
        if choice["finish_reason"]:
            assert index not in finishes
            finishes[index] = choice["finish_reason"]
    usages = [chunk["usage"] for chunk in chunks if chunk["usage"]]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    return {
        "texts": dict(texts),
        "ids": dict(ids),
        "logprobs": dict(logprobs),
        "calls": dict(calls),
        "call ids": dict(num_call_ids),
        "finishes": finishes,
        "roles": dict(roles),
        "usage": [(usage["prompt_tokens"], usage["completion_tokens"]) for usage in usages],
    }


async def ask(client: aiohttp.ClientSession, url: str, body: dict) -> dict:
    headers = {"x-openinference-token": "test-token"}
    path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
    async with client.post(url + path, json=body, headers=headers) as response:
        assert response.status == 200, await response.text()
        lines = [line async for line in response.content if line.startswith(b"data: ")]
    assert lines.pop() == b"data: [DONE]\n"
    chunks = [json.loads(line[6:]) for line in lines]
    assert not [(body, chunk["error"]) for chunk in chunks if "error" in chunk]
    return told(chunks)


async def test_a_stream_cut_anywhere_tells_what_the_undisturbed_one_tells(
    networks, engines, make_bench, make_routing, make_routed, caplog
):
    caplog.set_level("INFO", logger="access")
    groups = [make_routed(url, f"g{number}") for number, (_, url) in enumerate(networks)]
    bench = await make_bench(make_routing(*groups), stall_timeout_seconds=60)
    await bench.admitted(len(groups))
    places = asyncio.Semaphore(MAX_OPEN)

    async def compare(number: int) -> tuple[dict, dict]:
        body = request(number)
        async with places:
            undisturbed = await ask(bench.client, engines[number % 2].url, body)
            return undisturbed, await ask(bench.client, bench.url, body)

    pairs = await asyncio.gather(*(compare(number) for number in range(NUM_STREAMS)))
    assert [cut for _, cut in pairs] == [undisturbed for undisturbed, _ in pairs]
    lines = [record for record in caplog.records if record.name == "access"]
    num_resumed = sum(len(line.groups) > 1 for line in lines)
    print(f"{num_resumed} of {len(lines)} streams were resumed, the others were not cut")
    assert num_resumed >= NUM_STREAMS / 5  # two thirds are expected; whom a cut hits is chance
