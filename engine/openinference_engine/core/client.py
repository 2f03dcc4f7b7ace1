"""The API's side of the core: sends it sequences and hands out their tokens.

Where the core runs is the business of `core/spawned.py` (a process) and `core/threaded.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from openinference_engine.config import EngineConfig
from openinference_engine.core.heartbeat import Heartbeat
from openinference_engine.core.messages import (
    Abort,
    Compile,
    Compiled,
    Failure,
    FromCore,
    Loaded,
    Progress,
    Status,
    Submit,
    ToCore,
    Token,
)
from openinference_engine.errors import GenerationFailed, RequestError, Unavailable

_HAS_ENDED = "the engine core has ended; send the request again"
OnMessage = Callable[[FromCore], None]
_Queue = asyncio.Queue[Token | Failure | None]  # None: the core has ended


class CoreClient(ABC):
    """One core and the sequences inside it."""

    def __init__(self, config: EngineConfig) -> None:
        self.loaded: Loaded | None = None
        self.status = Status()
        self.has_ended = False
        self.config = config
        # In memory: a busy disk keeps those waiting who write to a mapped file that lies on it.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkdtemp's
        self._folder = Path(tempfile.mkdtemp(prefix="openinference-", dir=memory))
        self.heartbeat = Heartbeat(self._folder / "heartbeat")
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # bounded by the admission of requests instead
        self._queues: dict[str, _Queue] = {}
        self._compiling: dict[int, asyncio.Future[str | None]] = {}
        self._num_compiled = 0
        self._encoder = msgspec.msgpack.Encoder()

    async def run(self, on_message: OnMessage) -> int:
        """Runs the core until it ends; returns its exit code. Cancelling ends it."""
        self._socket.bind(f"ipc://{self._folder}/core.ipc")
        receiving = asyncio.create_task(self._receive(on_message), name="core-receive")
        try:
            return await self._run_core(self._folder)
        finally:
            receiving.cancel()
            self._end()

    @abstractmethod
    async def _run_core(self, folder: Path) -> int:
        """Starts a core that connects to the socket in `folder`, and waits for its end."""

    async def stream(self, submits: list[Submit]) -> AsyncGenerator[Token, None]:
        """The tokens of some sequences as they come. Leaving early ends the sequences.

        Raises Unavailable if the core ends meanwhile or has no seat in time, GenerationFailed if it
        cannot compute one of them.
        """
        queue: _Queue = asyncio.Queue()
        pending = {submit.request_id for submit in submits}
        self._queues.update(dict.fromkeys(pending, queue))
        try:
            for submit in submits:
                self._send(submit)
            while pending:
                token = await queue.get()
                if token is None:
                    raise Unavailable(_HAS_ENDED)
                if isinstance(token, Failure):
                    raise self._explain(token)
                if token.request_id not in self._queues:
                    continue  # drawn before the core heard of the abort
                if token.finish_reason is not None:
                    pending.discard(token.request_id)
                    self._queues.pop(token.request_id, None)
                yield token
                pending &= self._queues.keys()
        finally:
            self.abort(pending)

    def abort(self, request_ids: set[str]) -> None:
        """Ends sequences before their time; a stream no longer waits for them."""
        alive = [request_id for request_id in request_ids if self._queues.pop(request_id, None)]
        if alive and not self.has_ended:
            self._send(Abort(alive))

    def _explain(self, failure: Failure) -> RequestError:
        if failure.reason == "expired":
            seconds = self.config.queue_timeout_seconds
            return Unavailable(f"no seat was free for {seconds} s; send the request again later")
        return GenerationFailed("the engine failed on this request; its log says why")

    async def compile(self, grammar: str) -> str | None:
        """Makes a grammar ready for `Submit`; returns what is wrong with it, or None.

        Raises Unavailable if the core ends meanwhile.
        """
        self._num_compiled += 1
        number = self._num_compiled
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._compiling[number] = future
        try:
            self._send(Compile(number, grammar))
            return await future
        finally:
            del self._compiling[number]

    def _send(self, message: ToCore) -> None:
        if self.has_ended:
            raise Unavailable(_HAS_ENDED)
        self._socket.send(self._encoder.encode(message))

    async def _receive(self, on_message: OnMessage) -> None:
        decoder = msgspec.msgpack.Decoder(FromCore)
        while True:
            message = decoder.decode(await self._socket.recv())
            match message:
                case Loaded():
                    self.loaded = message
                case Progress():
                    self.status = message.status
                    self._deliver(message.tokens)
                    self._deliver(message.failures)
                case Compiled(number, error):
                    if (future := self._compiling.get(number)) and not future.done():
                        future.set_result(error)
            on_message(message)

    def _deliver(self, results: Sequence[Token | Failure]) -> None:
        for result in results:
            if queue := self._queues.get(result.request_id):
                queue.put_nowait(result)

    def _end(self) -> None:
        self.has_ended = True
        for queue in set(self._queues.values()):
            queue.put_nowait(None)
        for future in self._compiling.values():
            if not future.done():
                future.set_exception(Unavailable(_HAS_ENDED))
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)
