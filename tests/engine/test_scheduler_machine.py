"""The scheduler under every order of requests, steps and ends: nothing is ever lost."""

from __future__ import annotations

import math
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from openinference_engine.blocks import BlockPool
from openinference_engine.request import Request, SamplingParams, due_at
from openinference_engine.results import StepResult
from openinference_engine.scheduler import Scheduler
from openinference_engine.step import Chunk, Step

from tests.engine.test_scheduler import BLOCK_SIZE, lengths


class SchedulerMachine(RuleBasedStateMachine):
    """Random arrivals, aborts and steps over a pool that is often too small.

    The "model" draws a token that depends on the sequence so far, so that a token computed from
    wrong state would show.
    """

    stages = 1  # of a pipeline: steps that are begun before the oldest is committed
    window = 1000  # positions that a token sees

    def __init__(self) -> None:
        super().__init__()
        pool = BlockPool(10, BLOCK_SIZE)
        self.scheduler = Scheduler(pool, 3, steps_under_way=self.stages, window=self.window)
        self.under_way: deque[tuple[Step, list[int]]] = deque()
        self.count = 0
        self.alive: dict[str, Request] = {}
        self.cache: dict[int, list[int | None]] = {}

    @rule(
        prompt=st.lists(st.integers(0, 2), min_size=1, max_size=20),
        max_tokens=st.integers(1, 20),
        num_outputs=st.integers(0, 5),
        priority=st.integers(0, 3),
        patience=st.one_of(st.just(math.inf), st.integers(0, 6)),
    )
    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        num_outputs: int,
        priority: int,
        patience: float,
    ) -> None:
        outputs: list[int] = []
        for _ in range(min(num_outputs, max_tokens - 1)):
            outputs.append(self.next_token(prompt + outputs))
        params = SamplingParams(seed=0, max_tokens=max_tokens)
        due = due_at(self.count, priority, ageing_seconds=5)
        expires = self.count + patience
        request = Request(str(self.count), prompt, params, outputs, due=due, expires=expires)
        self.count += 1
        self.alive[request.id] = request
        self.scheduler.add(request)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.alive)))
        self.scheduler.abort(request_id)
        del self.alive[request_id]

    @rule()
    def expire(self) -> None:
        """Exactly those end that never had a seat and are out of time."""
        expected = {
            request.id
            for request in self.alive.values()
            if request.num_cached is None and request.expires <= self.count
        }
        assert set(self.scheduler.expire(self.count)) == expected
        for request_id in expected:
            del self.alive[request_id]

    @rule(token_budget=st.integers(1, 30))
    def step(self, token_budget: int) -> None:
        step = self.scheduler.schedule(token_budget)
        assert step.num_tokens <= token_budget
        if self.stages == 1:
            assert bool(step.chunks) == bool(self.alive)
            self.check_order(lengths(step), token_budget)
        if step.chunks:
            self.under_way.append((step, self.compute(step)))
        if len(self.under_way) == self.stages or not step.chunks:
            self.commit_oldest()

    def commit_oldest(self) -> None:
        if not self.under_way:
            return
        step, token_ids = self.under_way.popleft()
        for drawn in self.scheduler.commit(step, StepResult(token_ids)):
            if drawn.finish_reason:
                del self.alive[drawn.request.id]

    def check_order(self, computed: dict[str, int], token_budget: int) -> None:
        """Nobody is computed while a more urgent request waits, at the seat limit or for blocks.

        Unless those that are still more urgent use the whole budget of the step.
        """
        waiting = [request for request in self.alive.values() if not request.block_ids]
        first = min(waiting, key=lambda request: request.place, default=None)
        if first is None:
            return
        earlier = [request for request in self.alive.values() if request.place < first.place]
        wanted = (request.num_missing + computed.get(request.id, 0) for request in earlier)
        if sum(wanted) < token_budget:
            assert computed.keys() <= {request.id for request in earlier}

    def compute(self, step: Step) -> list[int]:
        """A model whose cache is a dictionary of blocks: it sees only what was written there."""
        drawn = []
        for chunk in step.chunks:
            for position, token_id in enumerate(chunk.token_ids, chunk.start):
                block = self.cache.setdefault(
                    chunk.block_ids[position // BLOCK_SIZE], [None] * BLOCK_SIZE
                )
                block[position % BLOCK_SIZE] = token_id
            if chunk.draw:
                length = chunk.start + len(chunk.token_ids)
                drawn.append(self.next_token([self.read(chunk, place) for place in range(length)]))
        return drawn

    def read(self, chunk: Chunk, position: int) -> int | None:
        """What lies where the chunk's sequence has a position, be it its own or not."""
        block = self.cache.get(chunk.block_ids[position // BLOCK_SIZE], [None] * BLOCK_SIZE)
        return block[position % BLOCK_SIZE]

    def next_token(self, tokens: list[int | None]) -> int:
        seen = tokens[-self.window :]
        assert None not in seen, "a position was read before it was written"
        return hash(tuple(seen)) % 3

    @invariant()
    def books_balance(self) -> None:
        self.scheduler.check_integrity()
        assert self.scheduler.num_running <= 3
        for request in self.alive.values():
            prompt = request.token_ids[: request.num_prompt]
            for token in request.token_ids[request.num_prompt :]:
                assert token == self.next_token(prompt)
                prompt.append(token)

    @invariant()
    def blocks_that_the_next_token_sees_are_held(self) -> None:
        for request in self.alive.values():
            num_hidden = max(request.num_computed + 1 - self.window, 0) // BLOCK_SIZE
            assert request.num_gone <= num_hidden

    def teardown(self) -> None:
        """Whatever happened, everything still ends, and every block comes back."""
        for _ in range(2000):
            if not self.alive:
                break
            self.step(token_budget=8)
        assert not self.alive
        while self.under_way:
            self.commit_oldest()
        assert self.scheduler.pool.num_free == self.scheduler.pool.num_blocks


class WindowedMachine(SchedulerMachine):
    """The same for a model that slides: it sees a block and a half."""

    window = 6


class PipelinedSchedulerMachine(SchedulerMachine):
    """Steps are computed in the order of their schedule and committed two steps later."""

    stages = 3


class PipelinedWindowedMachine(WindowedMachine):
    """Blocks are given back while later steps of the same sequence are under way."""

    stages = 3


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=5 * settings.default.max_examples // 2, stateful_step_count=50
)

FEWER = settings(max_examples=3 * settings.default.max_examples // 5, stateful_step_count=50)
TestPipelinedScheduler = PipelinedSchedulerMachine.TestCase
TestPipelinedScheduler.settings = FEWER
TestWindowedScheduler = WindowedMachine.TestCase
TestWindowedScheduler.settings = FEWER

TestPipelinedWindowed = PipelinedWindowedMachine.TestCase
TestPipelinedWindowed.settings = FEWER
