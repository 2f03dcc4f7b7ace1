"""An engine that replays timing, as cheap as Python allows, so that the proxies are what is seen.

    python -m benchmarks.router_stub PORT [--prefix-tokens N]

Answers `/v1/chat/completions` with events at the recorded times, `/load` as an engine does, and
the routing ConfigMap of benchmarks.proxies when asked as an API server. Each event carries the
time at which it was sent (CLOCK_MONOTONIC, which all processes of a machine share).

The request's `user` field may say how: `{"first": seconds, "every": seconds, "events": n}`. With
`--prefix-tokens` it has a prefix cache of that size and computes prompts one after another, at the
speed that it reports; then the first event comes when the uncached rest of the prompt is computed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import OrderedDict
from typing import Any, cast

import uvloop

# Seconds between the events of one stream of SmolLM2-135M on two CPU cores beside three others.
RECORDED_SECONDS = (0.0312, 0.0104, 0.0098, 0.0111, 0.0102, 0.0127, 0.0099, 0.0106)
NUM_EVENTS = 4

BLOCK_TOKENS = 16
CHARACTERS_PER_TOKEN = 4
PREFILL_TOKENS_PER_SECOND = 16_000.0  # of the order of an 8B model on one H100
DECODE_TOKENS_PER_SECOND = 2_000.0

STREAM = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class PrefixCache:
    """Blocks of prompts by their hash chain, the least recently used given up first."""

    def __init__(self, num_tokens: int) -> None:
        self._num_blocks = num_tokens // BLOCK_TOKENS
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.free_at = 0.0
        self.num_queued_tokens = 0.0
        self.num_asked = self.num_hit = 0

    def compute(self, prompt: str, now: float) -> float:
        """When the prompt is computed, if it stands in line behind what is."""
        size = BLOCK_TOKENS * CHARACTERS_PER_TOKEN
        chain, is_hit, missing = 0, True, 0
        for at in range(0, len(prompt), size):
            chain = hash((chain, prompt[at : at + size]))
            is_hit = is_hit and chain in self._blocks
            missing += not is_hit
            self.num_hit += is_hit
            self.num_asked += 1
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > self._num_blocks:
            self._blocks.popitem(last=False)
        seconds = missing * BLOCK_TOKENS / PREFILL_TOKENS_PER_SECOND
        self.free_at = max(self.free_at, now) + seconds
        return self.free_at


class Engine(asyncio.Protocol):
    """One connection."""

    cache: PrefixCache | None = None
    port = 0
    ports: tuple[int, ...] = ()
    running = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length or 0):
            return
        self.buffer = b""
        self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1]
        if path.startswith(b"/load"):
            self.transport.write(STREAM)
            self.report()
        elif path.startswith(b"/api/v1/namespaces"):
            if b"watch=true" not in path.lower():
                self.whole(configmaps(self.ports))
        elif path.startswith(b"/counts"):
            cache = self.cache
            self.whole({"asked": cache.num_asked, "hit": cache.num_hit} if cache else {})
        else:
            self.stream(json.loads(body))

    def whole(self, document: object) -> None:
        body = json.dumps(document).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.transport.write(head % len(body) + body)

    def report(self) -> None:
        cache = self.cache
        waiting = max(0.0, cache.free_at - time.monotonic()) if cache else 0.0
        load = {
            "ready": True,
            "seats": 32 if cache else 100_000,
            "running": Engine.running,
            "queuedTokens": int(waiting * PREFILL_TOKENS_PER_SECOND),
            "prefillTokensPerSecond": PREFILL_TOKENS_PER_SECOND if cache else 0.0,
            "decodeTokensPerSecond": DECODE_TOKENS_PER_SECOND if cache else 0.0,
            "resumeKey": "stub",
        }
        self.write(b"event: load\ndata: " + json.dumps(load).encode() + b"\n\n")
        pause_seconds = 0.1 if cache else 1.0
        self.timer = asyncio.get_running_loop().call_later(pause_seconds, self.report)

    def stream(self, asked: dict[str, Any]) -> None:
        how = json.loads(asked.get("user") or "{}")
        self.left = how.get("events", NUM_EVENTS)
        self.every = how.get("every")
        self.is_traced = (asked.get("openinference") or {}).get("stream_token_ids", False)
        self.number = 0
        self.transport.write(STREAM)
        loop = asyncio.get_running_loop()
        self.due = loop.time() + how.get("first", RECORDED_SECONDS[0])
        if self.cache is not None:
            prompt = "".join(message["content"] for message in asked["messages"])
            self.due = self.cache.compute(prompt, loop.time())
        Engine.running += 1
        self.timer = loop.call_at(self.due, self.speak)

    def speak(self) -> None:
        self.write(chunk(self.number, self.is_traced))
        self.number += 1
        self.left -= 1
        loop = asyncio.get_running_loop()
        if self.left:
            pause = self.every or RECORDED_SECONDS[self.number % len(RECORDED_SECONDS)]
            self.due += pause
            self.timer = loop.call_at(self.due, self.speak)
        else:
            Engine.running -= 1
            self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def write(self, event: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))


def chunk(number: int, is_traced: bool) -> bytes:
    """One event of a chat stream, as the engine writes it."""
    internal = b',"openinference":{"token_ids":{"0":[%d]}}' % number if is_traced else b""
    return (
        b'data: {"id":"chatcmpl-0123456789abcdef01234567","object":"chat.completion.chunk",'
        b'"created":1767225600,"model":"stub","choices":[{"index":0,"delta":{"content":"%.6f"},'
        b'"logprobs":null,"finish_reason":null}]%s}\n\n' % (time.monotonic(), internal)
    )


def configmaps(ports: tuple[int, ...]) -> dict[str, Any]:
    """The list of routing ConfigMaps with one group per stub."""
    groups = [
        {
            "id": f"stub-0-{number}",
            "revision": "0",
            "address": f"http://127.0.0.1:{port}",
            "state": "Active",
        }
        for number, port in enumerate(ports)
    ]
    routing = {
        "service": "stub",
        "model": "stub",
        "generation": 1,
        "createdAt": "2026-01-01T00:00:00Z",
        "balancing": {"algorithm": "PrefixAware"},
        "groups": groups,
    }
    item = {"metadata": {"name": "stub-routing"}, "data": {"routing.json": json.dumps(routing)}}
    return {"metadata": {"resourceVersion": "1"}, "items": [item]}


async def serve(ports: tuple[int, ...], number: int) -> None:
    Engine.ports = ports
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", ports[number])
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ports", type=int, nargs="+", help="of all stubs")
    parser.add_argument("--number", type=int, default=0, help="which of them this is")
    parser.add_argument("--prefix-tokens", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.prefix_tokens:
        Engine.cache = PrefixCache(arguments.prefix_tokens)
    uvloop.run(serve(tuple(arguments.ports), arguments.number))


if __name__ == "__main__":
    main()
