"""The core: receives requests, runs steps, sends tokens. One thread, one socket.

Started by `core/spawned.py` as `python -m openinference_engine.core <folder>`; the settings are the
first line of stdin, and the end of stdin means that the API process is gone.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import threading
import time
from pathlib import Path

import msgspec
import zmq

from openinference_engine.backend import telling_lack_of_memory
from openinference_engine.config import EngineConfig
from openinference_engine.core.heartbeat import Heartbeat
from openinference_engine.core.messages import (
    Abort,
    Compile,
    Compiled,
    Failure,
    FromCore,
    Leaving,
    Loaded,
    Progress,
    Status,
    Submit,
    ToCore,
    Token,
)
from openinference_engine.core.queue_clock import QueueClock
from openinference_engine.engine import Engine, Failed
from openinference_engine.grammar import Grammars
from openinference_engine.request import Request, due_at
from openinference_engine.scheduler import Drawn
from openinference_engine.timeline import Timeline
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve

_PROBE_SECONDS = 2.0
_LOOK_SECONDS = 0.002  # for a grammar that is compiled meanwhile
log = logging.getLogger("openinference.core")


def run(
    folder: Path, config: EngineConfig, started: float, stopping: threading.Event | None = None
) -> None:
    """Loads the model and serves, until `stopping`. Raises StartError if it cannot load."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    with socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"ipc://{folder}/core.ipc")
        core = _load(folder, config, socket, started)
        if stopping is None:  # the process is the core's own
            gc.freeze()  # what is loaded now is never garbage: walking over it stalls a step
        while stopping is None or not stopping.is_set():
            core.turn()


def _load(folder: Path, config: EngineConfig, socket: zmq.Socket[bytes], started: float) -> Core:
    timeline = Timeline(started)
    timeline.end("import")
    path = resolve(config.model_uri)
    checkpoint = open_checkpoint(path)
    with telling_lack_of_memory():
        engine = Engine(checkpoint, config, timeline)
        engine.warm_up()
    grammars = Grammars(lambda: load_tokenizer(checkpoint, path), checkpoint.config.vocab_size)
    core = Core(engine, grammars, socket, Heartbeat(folder / "heartbeat"))
    core.beat()
    timeline.end("warm_up")
    capacity = engine.capacity
    core.send(
        Loaded(
            capacity.max_model_len,
            capacity.num_blocks,
            engine.kernel_path,
            engine.paths,
            timeline.seconds,
        )
    )
    return core


def exit_with_stdin() -> None:
    """Ends this process at once when the API process closes the other end of stdin."""

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
        os._exit(0)

    threading.Thread(target=wait, name="stdin", daemon=True).start()


class Core:
    def __init__(
        self,
        engine: Engine,
        grammars: Grammars,
        socket: zmq.Socket[bytes],
        heartbeat: Heartbeat,
    ) -> None:
        self._engine = engine
        self._grammars = grammars
        self._socket = socket
        self._heartbeat = heartbeat
        self._queue = QueueClock()
        self._decoder = msgspec.msgpack.Decoder(ToCore)
        self._encoder = msgspec.msgpack.Encoder()

    def turn(self) -> None:
        """Takes what arrived, then one step; while idle, sleeps until something arrives."""
        self._receive(self._patience_seconds)
        if self._engine.is_leaving:
            self.send(Leaving())
        for number, error in self._grammars.take_compiled():
            self.send(Compiled(number, error))
        if self._engine.has_work:
            self._step()
        elif self._heartbeat.age_seconds >= _PROBE_SECONDS:
            self._heartbeat.expect(0.0)
            self._engine.probe()
            self.beat()

    def beat(self) -> None:
        self._heartbeat.beat(self._engine.num_steps)

    def send(self, message: FromCore) -> None:
        self._socket.send(self._encoder.encode(message))

    @property
    def _patience_seconds(self) -> float:
        if self._engine.has_work:
            return 0.0
        if self._grammars.has_pending:
            return _LOOK_SECONDS
        return max(0.0, _PROBE_SECONDS - self._heartbeat.age_seconds)

    def _receive(self, wait_seconds: float) -> None:
        if not self._socket.poll(math.ceil(wait_seconds * 1000)):
            return
        while self._socket.poll(0):
            self._handle(self._decoder.decode(self._socket.recv()))
        self.send(Progress([], self._status()))

    def _handle(self, message: ToCore) -> None:
        match message:
            case Submit():
                now = time.monotonic()
                self._engine.add(self._request(message, now))
                self._queue.enter(message.request_id, now)
            case Compile(number, grammar):
                self._grammars.compile_soon(number, grammar)
            case Abort(request_ids):
                for request_id in request_ids:
                    self._engine.abort(request_id)
                    self._queue.leave(request_id)

    def _request(self, submit: Submit, now: float) -> Request:
        config = self._engine.config
        return Request(
            submit.request_id,
            submit.prompt_ids,
            submit.params,
            submit.output_ids,
            salt=submit.salt,
            due=due_at(now, submit.priority, config.ageing_seconds),
            expires=now + (config.queue_timeout_seconds or math.inf),
            constraint=self._grammars.constraint(submit.params.grammar, submit.output_ids),
        )

    def _step(self) -> None:
        engine = self._engine
        step = engine.schedule()
        failed = engine.expire(time.monotonic())  # those for whom it has no seat
        self._queue.note(step, time.monotonic())
        self._heartbeat.expect(engine.predict_seconds(step))
        results = engine.execute(step)
        self.beat()
        drawn = [result for result in results if isinstance(result, Drawn)]
        tokens = [_token(one, self._queue.take_seconds(one.request.id)) for one in drawn]
        failed += [result for result in results if isinstance(result, Failed)]
        for one in failed:
            self._queue.leave(one.request_id)
        failures = [Failure(one.request_id, one.reason) for one in failed]
        self.send(Progress(tokens, self._status(), step.num_tokens, failures))

    def _status(self) -> Status:
        scheduler, speed = self._engine.scheduler, self._engine.speed
        return Status(
            running=scheduler.num_running,
            waiting=scheduler.num_waiting,
            queued_tokens=scheduler.num_queued_tokens,
            kv_usage=scheduler.pool.usage,
            prefill_tokens_per_second=speed.prefill_tokens_per_second,
            decode_tokens_per_second=speed.decode_tokens_per_second,
            preemptions=scheduler.num_preemptions,
        )


def _token(drawn: Drawn, queue_seconds: float) -> Token:
    request = drawn.request
    return Token(
        request.id,
        drawn.token_id,
        drawn.finish_reason,
        request.num_cached or 0,
        drawn.logprobs,
        request.prompt_logprobs if request.num_outputs == 1 else [],
        drawn.embedding,
        queue_seconds,
    )
