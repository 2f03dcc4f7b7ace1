"""What the handlers of one server share, and the two questions asked of it: ready? admitted?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
from aiohttp import web

from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core.client import CoreClient
from openinference_engine.core.messages import FromCore, Leaving, Loaded, Progress
from openinference_engine.errors import QueueFull, Unavailable
from openinference_engine.server.front import Front
from openinference_engine.server.metrics import Metrics
from openinference_engine.server.tracing import Tracing

log = logging.getLogger("openinference.server")


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class ServerState:
    server: ServerConfig
    engine: EngineConfig
    model_name: str
    core: CoreClient
    metrics: Metrics
    started_at: int
    tracing: Tracing | None = None
    front: Front | None = None  # None: still loading
    is_terminated: asyncio.Event = field(default_factory=asyncio.Event)  # told to drain and end
    is_draining: bool = False
    is_closing: bool = False  # nothing is open but event streams, which end now
    num_in_flight: int = 0  # sequences inside the engine, waiting or running
    is_empty: asyncio.Event = field(default_factory=_set_event)

    @property
    def front_or_refuse(self) -> Front:
        """Raises Unavailable while it loads."""
        if self.front is None:
            raise Unavailable("the model is loading; try again later")
        return self.front

    @property
    def resume_key(self) -> str:
        """Equal on two servers that would draw the same next token; empty while loading."""
        loaded = self.core.loaded
        if self.front is None or loaded is None:
            return ""
        return self.front.resume_key(self.engine, loaded.kernel_path, loaded.max_model_len)

    @property
    def max_model_len(self) -> int:
        """Raises Unavailable while the core loads."""
        if self.core.loaded is None:
            raise Unavailable("the model is loading; try again later")
        return self.core.loaded.max_model_len

    @property
    def unready_reason(self) -> str | None:
        """Why no request can be answered now, or None."""
        if self.is_draining:
            return "the server is shutting down"
        if self.core.has_ended:
            return "the engine core has ended"
        if self.core.loaded is None or self.front is None:
            return "the model is loading"
        if self.core.heartbeat.is_stuck:
            return f"no step finished for {self.core.heartbeat.age_seconds:.0f} s"
        return None

    def on_message(self, message: FromCore) -> None:
        """Keeps log and metrics of what the core reports."""
        match message:
            case Loaded():
                log.info("model loaded", extra={"fields": msgspec.to_builtins(message)})
                self.metrics.loaded(message, self.engine)
            case Progress():
                self.metrics.progress(message, self.engine.max_sequences)
            case Leaving():
                self.is_terminated.set()

    @property
    def max_in_flight(self) -> int:
        """Sequences, running and waiting."""
        return self.engine.max_sequences + self.server.max_waiting

    @contextmanager
    def admit(self, num_sequences: int) -> Iterator[None]:
        """Counts sequences in and out. Raises Unavailable or QueueFull."""
        if reason := self.unready_reason:
            raise Unavailable(f"{reason}; try again later")
        if self.num_in_flight + num_sequences > self.max_in_flight:
            raise QueueFull(
                f"{self.num_in_flight} sequences are running or waiting and {num_sequences} more "
                f"would pass the limit of {self.max_in_flight}; try again later"
            )
        self.num_in_flight += num_sequences
        self.is_empty.clear()
        try:
            yield
        finally:
            self.num_in_flight -= num_sequences
            if not self.num_in_flight:
                self.is_empty.set()


STATE = web.AppKey("state", ServerState)
