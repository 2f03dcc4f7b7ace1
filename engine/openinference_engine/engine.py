"""The engine of one replica: the loop `schedule → run → commit`, its speeds and its size in memory.

Runs in the core process, or inside a test. Not thread-safe: one caller adds, aborts and steps.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from openinference_engine.blocks import BlockPool
from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.layers.attention import CACHE_DTYPE
from openinference_engine.limits import memory_limit_bytes
from openinference_engine.models.registry import build_model
from openinference_engine.request import FailureReason, Request, SamplingParams
from openinference_engine.results import StepResult
from openinference_engine.runner import TORCH_DTYPES, Runner
from openinference_engine.scheduler import Chunk, Draw, Drawn, Scheduler, Step
from openinference_engine.speed import SpeedMeter
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.loader import Weights

_WARM_UP_TOKENS = 32
log = logging.getLogger("openinference.core")


@dataclass(frozen=True, slots=True)
class Capacity:
    max_model_len: int
    num_blocks: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A request that ended without its answer; the others did not notice."""

    request_id: str
    reason: FailureReason


class Engine:
    def __init__(self, checkpoint: Checkpoint, config: EngineConfig) -> None:
        """Loads the model. Raises StartError if it does not fit or a tensor is missing."""
        self.config = config
        self.capacity = plan_capacity(checkpoint.config, config)
        self.speed = SpeedMeter()
        self.num_steps = 0
        pool = BlockPool(self.capacity.num_blocks, config.block_size)
        self.scheduler = Scheduler(pool, config.max_sequences, config.prefix_caching)
        keeps_format = config.dtype == "auto"
        weights = Weights(checkpoint, TORCH_DTYPES[config.dtype], keeps_format)
        model = build_model(weights, checkpoint.config, self.capacity.max_model_len)
        self.runner = Runner(model, checkpoint.config, pool.num_blocks, config.block_size)

    @property
    def has_work(self) -> bool:
        return bool(self.scheduler.num_running or self.scheduler.num_waiting)

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
        at fault.
        """
        try:
            result = self._run(step)
        except Exception:
            return self._execute_apart(step)
        return list(self.scheduler.commit(step, result))

    def step(self) -> list[Drawn | Failed]:
        return self.execute(self.schedule())

    def expire(self, now: float) -> list[Failed]:
        """Ends the requests that waited too long for their first seat."""
        return [Failed(request_id, "expired") for request_id in self.scheduler.expire(now)]

    def warm_up(self) -> None:
        """Pays one-time costs and measures both speeds, before the first request."""
        num_tokens = min(_WARM_UP_TOKENS, self.capacity.max_model_len)
        self.runner.run(self._self_probe(num_tokens))
        self._run(self._self_probe(num_tokens))
        self._run(self._self_probe(1))

    def probe(self) -> None:
        """Proves progress while idle: a real step over one token."""
        self.runner.run(self._self_probe(1))
        self.num_steps += 1

    def _execute_apart(self, step: Step) -> list[Drawn | Failed]:
        """Each chunk as a step of its own, which gives the same tokens and shows who is at fault.

        What the failed step has written to the cache is written again.
        """
        self.probe()
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
        """A step that belongs to no request. It writes to blocks that nobody holds or reuses."""
        pool = self.scheduler.pool
        block_ids = pool.allocate(pool.blocks_for(num_tokens)) or []
        pool.release(block_ids)
        draw = Draw(SamplingParams(seed=0, max_tokens=1, temperature=0), 1, [0])
        return Step([Chunk("self-probe", [0] * num_tokens, 0, block_ids, draw)])


def plan_capacity(model: ModelConfig, config: EngineConfig) -> Capacity:
    """Context length and number of cache blocks. Raises StartError if one sequence cannot fit."""
    max_model_len = config.max_model_len or model.max_positions
    if not 1 <= max_model_len <= model.max_positions:
        raise StartError(
            f"--max-model-len {max_model_len} is outside what the model was trained for; "
            f"use 1 to {model.max_positions}"
        )
    blocks_per_sequence = -(-max_model_len // config.block_size)
    block_bytes = model.kv_bytes_per_token(CACHE_DTYPE.itemsize) * config.block_size
    wanted = blocks_per_sequence * config.max_sequences
    if config.kv_cache_bytes is None:
        if blocks_per_sequence * block_bytes > memory_limit_bytes():
            raise StartError(
                f"one sequence of {max_model_len} tokens needs {blocks_per_sequence * block_bytes} "
                f"bytes of cache, and there are {memory_limit_bytes()} in all; set --max-model-len"
            )
        affordable = max(memory_limit_bytes() // 10 // block_bytes, blocks_per_sequence)
    else:
        affordable = config.kv_cache_bytes // block_bytes
    if affordable < blocks_per_sequence:
        raise StartError(
            f"--kv-cache-bytes {config.kv_cache_bytes} holds {affordable * config.block_size} "
            f"tokens; lower --max-model-len {max_model_len} or give "
            f"{blocks_per_sequence * block_bytes} bytes"
        )
    return Capacity(max_model_len, min(wanted, affordable))
