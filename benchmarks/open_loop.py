"""A client of streams, as cheap as Python allows: it starts them on time and notes what came when.

An open loop: requests start at fixed times whatever became of the ones before, so a slow proxy
cannot slow the clock. Knows HTTP/1.1 as far as streams of server-sent events need it.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import cast

HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer none\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
PROMPT = "Tell me about the sea. " * 20


@dataclass
class Seen:
    """One stream. Seconds; `lags` are from an event's sending by the stub to its arrival here."""

    started_at: float
    first_seconds: float | None = None
    lags: list[float] = field(default_factory=list)
    is_complete: bool = False
    last_at: float = 0.0


class Connection(asyncio.Protocol):
    """Sends one request after another, each when the one before it has ended."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.end()

    def ask(self, request: bytes, seen: Seen) -> asyncio.Future[None]:
        self.seen = seen
        self.tail = b""
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.done

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self.tail + data
        *events, self.tail = data.split(b"\n\n")
        for event in events:
            _, separator, rest = event.partition(b'"content":"')
            if separator:
                self.seen.last_at = now
                self.seen.lags.append(now - float(rest[: rest.index(b'"')]))
                if self.seen.first_seconds is None:
                    self.seen.first_seconds = now - self.seen.started_at
            elif b"[DONE]" in event:
                self.seen.is_complete = True
        if self.tail.endswith(b"0\r\n\r\n") or self.tail.endswith(b"\r\n0\r\n\r\n"):
            self.end()

    def end(self) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(None)


class Client:
    """Keeps connections to one port and opens as many as it needs."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def ask(self, messages: list[dict[str, str]], **how: float) -> Seen:
        body = {"model": "stub", "stream": True, "messages": messages}
        if how:
            body["user"] = json.dumps(how)
        encoded = json.dumps(body).encode()
        seen = Seen(time.monotonic())
        connection = await self._connection()
        await connection.ask(HEAD % len(encoded) + encoded, seen)
        if seen.is_complete:
            self._idle.append(connection)
        else:
            connection.transport.abort()
        return seen

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(Connection, "127.0.0.1", self._port))[1]

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()


async def at_rate(port: int, rate: float, seconds: float) -> list[Seen]:
    """`rate` short streams a second for so long; half a minute later they are given up."""
    client = Client(port)
    started_at = time.monotonic()
    tasks = []
    for number in range(int(rate * seconds)):
        if (pause := started_at + number / rate - time.monotonic()) > 0:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(client.ask([{"role": "user", "content": PROMPT}])))
    _, late = await asyncio.wait(tasks, timeout=30)
    for task in late:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    client.close()
    return [one if isinstance(one, Seen) else Seen(started_at) for one in results]
