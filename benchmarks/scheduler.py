"""What a step costs the host beside the model: scheduling, commit, tensors, the report to the API.

    python -m benchmarks.scheduler [--steps 300]

The runner is a recording: it answers at once with tokens, so that nothing but the host's own work
is on the clock. Each row decodes with so many requests running, and shows the same with 1,000 more
waiting behind them and after 2,000 have finished: neither may cost anything. A step of the core is
one thread, so these milliseconds come on top of each step of the model.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Iterator
from itertools import pairwise

import msgspec
from openinference_engine.batch import build_batch
from openinference_engine.blocks import BlockPool
from openinference_engine.core.messages import Progress, Status, Token
from openinference_engine.request import Request, SamplingParams
from openinference_engine.results import StepResult
from openinference_engine.scheduler import Drawn, Scheduler
from openinference_engine.step import Step

BLOCK_SIZE = 16
PROMPT_TOKENS = 128
STEP_TOKENS = 4096
WARM_UP_STEPS = 20
PARTS = ("schedule", "tensors", "commit", "report")


class Host:
    """The core's loop around a model that takes no time."""

    def __init__(self, running: int, steps: int) -> None:
        self._length = PROMPT_TOKENS + steps + WARM_UP_STEPS + 2
        blocks = running * -(-self._length // BLOCK_SIZE)
        self.scheduler = Scheduler(BlockPool(blocks, BLOCK_SIZE), running)
        self._encoder = msgspec.msgpack.Encoder()
        self._num_added = 0

    def add(self, count: int, outputs: int | None = None) -> None:
        for _ in range(count):
            number = self._num_added
            prompt = [(number * 31 + place * 7) % 50_000 for place in range(PROMPT_TOKENS)]
            params = SamplingParams(seed=number, max_tokens=outputs or self._length, temperature=0)
            self.scheduler.add(Request(f"request-{number}/0", prompt, params))
            self._num_added += 1

    def step(self) -> tuple[float, ...]:
        """Seconds of each of PARTS."""
        moments = list(self._work())
        return tuple(end - start for start, end in pairwise(moments))

    def _work(self) -> Iterator[float]:
        yield time.perf_counter()
        step = self.scheduler.schedule(STEP_TOKENS)
        yield time.perf_counter()
        build_batch(step.chunks, BLOCK_SIZE)
        yield time.perf_counter()
        drawn = self.scheduler.commit(step, recorded_result(step))
        yield time.perf_counter()
        self._encoder.encode(Progress([_token(one) for one in drawn], self._status()))
        yield time.perf_counter()

    def _status(self) -> Status:
        return Status(
            running=self.scheduler.num_running,
            waiting=self.scheduler.num_waiting,
            queued_tokens=self.scheduler.num_queued_tokens,
            kv_usage=self.scheduler.pool.usage,
        )


def recorded_result(step: Step) -> StepResult:
    draws = sum(chunk.draw is not None for chunk in step.chunks)
    return StepResult([7] * draws, [None] * draws)


def _token(drawn: Drawn) -> Token:
    return Token(drawn.request.id, drawn.token_id, drawn.finish_reason, 0)


def measure(running: int, steps: int, waiting: int = 0, finished: int = 0) -> list[list[float]]:
    """Milliseconds by part, one figure per decode step."""
    host = Host(running, steps)
    host.add(finished, outputs=1)
    while host.scheduler.num_running or host.scheduler.num_waiting:
        host.step()
    host.add(running)
    while host.scheduler.num_queued_tokens > running:
        host.step()
    host.add(waiting)
    for _ in range(WARM_UP_STEPS):
        host.step()
    rows = [host.step() for _ in range(steps)]
    return [[seconds * 1000 for seconds in part] for part in zip(*rows, strict=True)]


def line(running: int, steps: int) -> str:
    parts = measure(running, steps)
    total = [sum(row) for row in zip(*parts, strict=True)]
    crowded = [sum(row) for row in zip(*measure(running, steps, 1000, 2000), strict=True)]
    cells = [
        f"{running}",
        *(f"{statistics.median(part):.3f}" for part in parts),
        f"{statistics.median(total):.3f}",
        f"{statistics.quantiles(total, n=100)[98]:.3f}",
        f"{statistics.median(crowded):.3f}",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--running", type=int, nargs="+", default=[1, 32, 256, 1024])
    options = parser.parse_args()
    gc.freeze()  # as the core does: what is loaded by now is never garbage
    head = ["ms, running", *PARTS, "all", "all, p99", "all, 1,000 waiting and 2,000 finished"]
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join(["---"] * len(head)) + " |")
    for running in options.running:
        print(line(running, options.steps), flush=True)


if __name__ == "__main__":
    main()
