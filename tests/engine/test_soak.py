"""Everything at once: all kinds of requests, refusals, aborts and broken connections.

Afterwards nothing is left in the engine, its memory has not grown, and nothing failed. A minute in
`make e2e` and ten in `make campaign`, by `OPENINFERENCE_SOAK_SECONDS`; `OPENINFERENCE_SOAK_SEED`
repeats the requests of a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil

SECONDS = float(os.environ.get("OPENINFERENCE_SOAK_SECONDS", "10"))
SEED = int(os.environ.get("OPENINFERENCE_SOAK_SEED", "1"))
NUM_CLIENTS = 24
NUM_ACTS = 30  # at the least, of each client in each part: whatever the machine, all kinds are met
MOST_GROWTH_BYTES = 24 << 20  # between a quarter and the end: arenas of the allocator fill up

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
TOOL = {"type": "function", "function": {"name": "count", "parameters": SCHEMA}}
CHANGES: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"temperature": 0},
    {"top_k": 5, "top_p": 0.8, "min_p": 0.01},
    {"stop": ["e", "zz"], "include_stop_str_in_output": True},
    {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.2},
    {"logprobs": True, "top_logprobs": 5},
    {"prompt_logprobs": 2, "stream": False},
    {"response_format": {"type": "json_object"}},
    {"guided_regex": "[a-f]{3,9}"},
    {"tools": [TOOL], "tool_choice": "required"},
    {"tools": [TOOL]},
    {"bad_words": ["a"], "allowed_token_ids": list(range(60, 120))},
    {"priority": -5},
    {"priority": 5, "cache_salt": "other"},
    {"min_tokens": 4, "ignore_eos": True},
]
BAD: list[dict[str, Any]] = [
    {"model": "other"},
    {"n": 0},
    {"temperature": "hot"},
    {"max_tokens": 10_000},
    {"guided_regex": "("},
    {"tool_choice": "required"},
    {"messages": []},
    {"unknown": 1},
    {"logit_bias": {"300": 1}},
]


class Client:
    """One of many, doing something else each time."""

    def __init__(self, session: aiohttp.ClientSession, draw: random.Random) -> None:
        self._session = session
        self._draw = draw
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []
        self.num_left = 0

    async def act(self) -> None:
        kinds = (self._ask, self._ask, self._stream, self._stream, self._leave, self._cancel)
        await self._draw.choice((*kinds, self._send_rubbish, self._embed, self._look))()

    def _body(self, **fields: Any) -> dict[str, Any]:
        text = "".join(self._draw.choices("abcdefgh \n", k=self._draw.randint(1, 120)))
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self._draw.randint(1, 60),
        }
        return body | fields | self._draw.choice(CHANGES)

    async def _post(self, path: str, body: Any) -> None:
        async with self._session.post(path, json=body) as answer:
            text = await answer.text()
            self.statuses[answer.status] += 1
            if answer.status >= 500:
                self.failures.append(text)

    async def _ask(self) -> None:
        await self._post("/v1/chat/completions", self._body())

    async def _stream(self) -> None:
        await self._post("/v1/chat/completions", self._body(stream=True))

    async def _leave(self) -> None:
        """Closes the connection after some of the stream."""
        async with self._session.post(
            "/v1/chat/completions", json=self._body(stream=True)
        ) as answer:
            for _ in range(self._draw.randint(0, 5)):
                await answer.content.readline()
            self.statuses[answer.status] += 1
            self.num_left += 1
            answer.close()

    async def _cancel(self) -> None:
        """Gives up before there is an answer, mostly."""
        try:
            async with asyncio.timeout(self._draw.uniform(0, 0.2)):
                await self._ask()
        except TimeoutError:
            self.num_left += 1

    async def _send_rubbish(self) -> None:
        if self._draw.random() < 0.5:
            body = self._body() | self._draw.choice(BAD)
            await self._post("/v1/chat/completions", body)
        else:
            data = self._draw.randbytes(self._draw.randint(0, 200))
            async with self._session.post("/v1/completions", data=data) as answer:
                self.statuses[answer.status] += 1

    async def _embed(self) -> None:
        inputs = [[self._draw.randrange(300)] * 9 for _ in range(self._draw.randint(1, 12))]
        await self._post("/v1/embeddings", {"model": "tiny", "input": inputs})

    async def _look(self) -> None:
        for path in ("/v1/models", "/metrics", "/ready", "/openapi.json"):
            async with self._session.get(path) as answer:
                await answer.read()
                self.statuses[answer.status] += 1


async def test_engine_is_empty_and_unharmed_after_everything(
    start_server: Callable[..., Any], tiny_llama: Path
) -> None:
    seats = ("--max-sequences", "8", "--max-waiting", "16", "--kv-cache-bytes", str(1 << 20))
    server = start_server(f"file://{tiny_llama}", "--served-model-name", "tiny", *seats)
    server.wait_until("/ready", 200)
    async with aiohttp.ClientSession(server.url, timeout=aiohttp.ClientTimeout(120)) as session:
        clients = [Client(session, random.Random(SEED * 1000 + i)) for i in range(NUM_CLIENTS)]
        await run(clients, SECONDS / 4)
        grown_from = memory_bytes(server)
        await run(clients, SECONDS * 3 / 4)
    server.wait_until_empty()
    statuses = sum((client.statuses for client in clients), Counter())
    print(
        f"soak of {SECONDS:g} s, seed {SEED}: {dict(sorted(statuses.items()))}, "
        f"{sum(client.num_left for client in clients)} left, "
        f"memory grew by {(memory_bytes(server) - grown_from) / 2**20:.1f} MiB"
    )
    failures = [text for client in clients for text in client.failures]
    assert not failures, Counter(failures).most_common(3)
    assert set(statuses) == {200, 400, 404, 429}
    assert memory_bytes(server) - grown_from < MOST_GROWTH_BYTES
    server.process.send_signal(signal.SIGTERM)
    exit_code, log = server.wait()
    assert (exit_code, '"level":"error"' in log) == (0, False), log[-2000:]


async def run(clients: list[Client], seconds: float) -> None:
    end = time.monotonic() + seconds

    async def keep_acting(client: Client) -> None:
        num_acts = 0
        while num_acts < NUM_ACTS or time.monotonic() < end:
            await client.act()
            num_acts += 1

    await asyncio.gather(*map(keep_acting, clients))


def memory_bytes(server: Any) -> int:
    """Resident memory of the API process and its core."""
    api = psutil.Process(server.process.pid)
    return sum(process.memory_info().rss for process in (api, *api.children(recursive=True)))
