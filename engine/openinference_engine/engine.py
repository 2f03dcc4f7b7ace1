"""The engine of one replica: the loop `schedule → run → commit`, its speeds and its size in memory.

Runs in the core process, or inside a test. Not thread-safe: one caller adds, aborts and steps.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from dataclasses import dataclass

from openinference_engine.backend import RankGroup, load_backend
from openinference_engine.blocks import BlockPool
from openinference_engine.config import EngineConfig
from openinference_engine.request import FailureReason, Request, SamplingParams
from openinference_engine.results import StepResult
from openinference_engine.scheduler import Drawn, Scheduler
from openinference_engine.speed import SpeedMeter
from openinference_engine.step import Chunk, Draw, Step
from openinference_engine.timeline import Timeline
from openinference_engine.weights.checkpoint import Checkpoint

_WARM_UP_TOKENS = 32
log = logging.getLogger("openinference.core")


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that ended without its answer; the others did not notice."""

    request_id: str
    reason: FailureReason


class Engine:
    def __init__(
        self, checkpoint: Checkpoint, config: EngineConfig, timeline: Timeline | None = None
    ) -> None:
        """Loads the model. Raises StartError if it does not fit or a tensor is missing.

        timeline: gets the stages of loading.
        """
        self.config = config
        self.speed = SpeedMeter()
        timeline = timeline or Timeline(time.monotonic())
        backend = load_backend(checkpoint, config, self.speed, timeline)
        self.capacity = backend.capacity
        self.kernel_path, self.paths = backend.kernel_path, backend.paths
        self.runner = backend.runner
        self._group = backend.group
        self._stages = self._group.num_stages if self._group else 1
        self._under_way: deque[tuple[Step, float]] = deque()  # and when each was begun
        self._last_end = 0.0
        self.num_steps = 0
        pool = BlockPool(self.capacity.num_blocks, config.block_size)
        self.scheduler = Scheduler(
            pool,
            config.max_sequences,
            config.prefix_caching,
            looks_ahead=backend.runs_ahead,
            steps_under_way=self._stages,
            window=checkpoint.config.window,
        )

    @property
    def has_work(self) -> bool:
        scheduler = self.scheduler
        return bool(scheduler.num_running or scheduler.num_waiting or self._under_way)

    @property
    def is_leaving(self) -> bool:
        """Another pod of this engine's group was told to terminate."""
        return self._group is not None and self._group.is_leaving()

    def add(self, request: Request) -> None:
        self.scheduler.add(request)

    def abort(self, request_id: str) -> None:
        self.scheduler.abort(request_id)

    def schedule(self) -> Step:
        """What the next step computes; its size follows the measured speed."""
        budget = self.speed.token_budget(
            self.config.step_seconds,
            lowest=self.config.max_sequences + self.config.block_size,
            highest=self.config.max_step_tokens,
        )
        return self.scheduler.schedule(budget)

    def execute(self, step: Step) -> list[Drawn | Failed]:
        """Runs the step and takes its results. A request that cannot be computed ends alone.

        Raises what the model raises if it does not even compute a self-probe: then no request is
        at fault. On a group of ranks, raises at once: the others would wait for what never comes.
        """
        if self._group is not None:
            return self._pass_through(self._group, step)
        if not step.chunks:
            return []  # what waited has expired
        try:
            result = self._run(step)
        except Exception as error:
            return self._execute_apart(step, error)
        return list(self.scheduler.commit(step, result))

    def predict_seconds(self, step: Step) -> float:
        """Until `execute` returns: on a group, what is under way comes first."""
        steps = [*(begun for begun, _ in self._under_way), step]
        return sum(self.speed.predict_seconds(one.num_tokens, one.num_decodes) for one in steps)

    def step(self) -> list[Drawn | Failed]:
        return self.execute(self.schedule())

    def expire(self, now: float) -> list[Failed]:
        """Ends the requests that waited too long for their first seat."""
        return [Failed(request_id, "expired") for request_id in self.scheduler.expire(now)]

    def warm_up(self) -> None:
        """Pays one-time costs and measures both speeds, before the first request."""
        num_tokens = min(_WARM_UP_TOKENS, self.capacity.max_model_len)
        self.runner.warm_up(self.config.max_sequences)
        self.runner.run(self._self_probe(num_tokens))
        self._run(self._self_probe(num_tokens))
        self._run(self._self_probe(1))

    def probe(self) -> None:
        """Proves progress while idle: a real step over one token."""
        self.runner.run(self._self_probe(1))
        self.num_steps += 1

    def _pass_through(self, group: RankGroup, step: Step) -> list[Drawn | Failed]:
        """Begins the step, if there is anything to do, and takes the results of the oldest one
        under way, unless a stage is free for another.
        """
        if step.chunks:
            group.begin(step)
            self._under_way.append((step, time.monotonic()))
            if len(self._under_way) < self._stages:
                return []
        if not self._under_way:
            return []  # what waited has expired
        oldest, begun = self._under_way.popleft()
        result = group.finish()
        end = time.monotonic()
        seconds = end - max(begun, self._last_end)  # of the pipeline's time, what was this step's
        self.speed.observe(oldest.num_tokens, oldest.num_decodes, seconds)
        self._last_end = end
        self.num_steps += 1
        return list(self.scheduler.commit(oldest, result))

    def _execute_apart(self, step: Step, error: Exception) -> list[Drawn | Failed]:
        """Each chunk as a step of its own, which gives the same tokens and shows who is at fault.

        What the failed step has written to the cache is written again.
        """
        try:
            self.probe()
        except Exception:
            raise error from error.__cause__  # it knows what was computed when that began
        results: list[Drawn | Failed] = []
        for chunk in step.chunks:
            alone = Step([chunk])
            try:
                result = self._run(alone)
            except Exception:
                log.exception("request failed", extra={"fields": {"request": chunk.request_id}})
                self.scheduler.abort(chunk.request_id)
                results.append(Failed(chunk.request_id, "error"))
            else:
                results += self.scheduler.commit(alone, result)
        return results

    def _run(self, step: Step) -> StepResult:
        started = time.monotonic()
        result = self.runner.run(step)
        self.speed.observe(step.num_tokens, step.num_decodes, time.monotonic() - started)
        self.num_steps += 1
        return result

    def _self_probe(self, num_tokens: int) -> Step:
        """A step that belongs to no request.

        It writes to one block, again and again, that no sequence ever gets: what it draws is of no
        use, and it needs nothing of a full pool.
        """
        num_blocks = self.scheduler.pool.blocks_for(num_tokens)
        block_ids = [self.capacity.probe_block] * num_blocks
        draw = Draw(SamplingParams(seed=0, max_tokens=1, temperature=0), 1, [0])
        return Step([Chunk("self-probe", [0] * num_tokens, 0, block_ids, draw)])
