"""The scheduler without a model: what a step holds, who waits, and that nothing is ever lost."""

from __future__ import annotations

import math
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from openinference_engine.blocks import BlockPool
from openinference_engine.request import Request, SamplingParams, due_at
from openinference_engine.results import StepResult
from openinference_engine.scheduler import Chunk, Scheduler, Step

BLOCK_SIZE = 4


def make_scheduler(num_blocks: int = 64, seats: int = 4) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, BLOCK_SIZE), seats)


def make_request(
    name: str, num_prompt: int, max_tokens: int = 8, first_id: int = 0, due: float = 0.0
) -> Request:
    prompt = [first_id + number for number in range(num_prompt)]
    return Request(name, prompt, SamplingParams(seed=0, max_tokens=max_tokens), due=due)


def lengths(step: Step) -> dict[str, int]:
    return {chunk.request_id: len(chunk.token_ids) for chunk in step.chunks}


def commit(scheduler: Scheduler, step: Step, token_id: int = 1) -> None:
    scheduler.commit(step, StepResult([token_id for chunk in step.chunks if chunk.draw]))


def test_long_prompt_is_computed_in_chunks_and_draws_once() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("long", 25))
    seen = []
    for _ in range(3):
        step = scheduler.schedule(token_budget=10)
        seen.append((lengths(step), step.chunks[0].draw is not None))
        commit(scheduler, step)
    assert seen == [({"long": 10}, False), ({"long": 10}, False), ({"long": 5}, True)]


def test_decodes_go_before_prefills_within_the_budget() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("long", 40))
    commit(scheduler, scheduler.schedule(10))
    scheduler.add(make_request("short", 3, first_id=100))
    commit(scheduler, scheduler.schedule(33))  # the rest of the long prompt, and the short one
    scheduler.add(make_request("late", 40, first_id=200))
    assert lengths(scheduler.schedule(10)) == {"long": 1, "short": 1, "late": 8}


def test_requests_wait_for_a_seat_in_order_of_arrival() -> None:
    scheduler = make_scheduler(seats=2)
    for name in ("first", "second", "third"):
        scheduler.add(make_request(name, 3, first_id=ord(name[0])))
    assert list(lengths(scheduler.schedule(100))) == ["first", "second"]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)
    scheduler.abort("first")
    assert "third" in lengths(scheduler.schedule(100))


def test_known_prefix_is_not_computed_again_but_its_last_token_is() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("first", 12))
    commit(scheduler, scheduler.schedule(100))
    scheduler.add(make_request("same", 12))
    step = scheduler.schedule(100)
    assert lengths(step)["same"] == 4  # two of three blocks: the last token needs its logits
    assert step.chunks[-1].block_ids[:2] == step.chunks[0].block_ids[:2]


def test_latest_request_is_preempted_and_keeps_its_tokens() -> None:
    scheduler = make_scheduler(num_blocks=4)
    early, late = make_request("early", 8), make_request("late", 7, first_id=50)
    scheduler.add(early)
    scheduler.add(late)
    for token_id in (31, 32):
        commit(scheduler, scheduler.schedule(100), token_id)
    # Both hold 2 blocks of 4; the third block of the early one has to come from the late one.
    assert scheduler.num_preemptions == 1
    assert (late.num_computed, late.block_ids) == (0, [])
    assert late.token_ids[late.num_prompt :] == [31]
    scheduler.abort("early")
    step = scheduler.schedule(100)
    assert step.chunks[0].start + len(step.chunks[0].token_ids) == late.num_tokens
    scheduler.check_integrity()


def test_urgent_request_takes_the_seat_of_a_lesser_one() -> None:
    scheduler = make_scheduler(seats=2)
    for name, due in (("early", 1), ("late", 2)):
        scheduler.add(make_request(name, 3, first_id=ord(name[0]), due=due))
    commit(scheduler, scheduler.schedule(100))
    scheduler.add(make_request("urgent", 3, first_id=200, due=0))
    assert set(lengths(scheduler.schedule(100))) == {"early", "urgent"}
    assert (scheduler.num_preemptions, scheduler.num_waiting) == (1, 1)


def test_urgent_request_takes_the_blocks_of_lesser_ones() -> None:
    scheduler = make_scheduler(num_blocks=8)
    for number in range(3):
        scheduler.add(make_request(str(number), 8, first_id=50 * number, due=number + 1))
    commit(scheduler, scheduler.schedule(100))
    scheduler.add(make_request("urgent", 16, first_id=200, due=0))
    assert set(lengths(scheduler.schedule(100))) == {"0", "urgent"}
    scheduler.check_integrity()


def test_request_of_a_lower_class_is_served_once_it_has_aged() -> None:
    """With ageing of 30 s, a class counts as a head start of 30 s, no more."""
    patient = due_at(arrived_seconds=0, priority=1, ageing_seconds=30)
    assert due_at(29, 0, 30) < patient < due_at(31, 0, 30)
    scheduler = make_scheduler(seats=1)
    scheduler.add(make_request("fresh", 3, due=due_at(31, 0, 30)))
    commit(scheduler, scheduler.schedule(100))
    scheduler.add(make_request("patient", 3, first_id=50, due=patient))
    assert set(lengths(scheduler.schedule(100))) == {"patient"}


@given(
    priority=st.integers(1, 3),
    ageing_steps=st.integers(1, 15),
    seats=st.integers(1, 3),
    arrivals_per_step=st.integers(1, 4),
)
def test_no_request_starves_under_an_endless_stream_of_urgent_ones(
    priority: int, ageing_steps: int, seats: int, arrivals_per_step: int
) -> None:
    """Only those ahead of it that arrived until it has aged are served first, seats at a time."""
    scheduler = make_scheduler(seats=seats)
    scheduler.add(make_request("patient", 1, due=due_at(0, priority, ageing_steps)))
    ahead = arrivals_per_step * (priority * ageing_steps + 1)
    bound = max(priority * ageing_steps, ahead // seats) + 2
    for step_number in range(bound):
        for number in range(arrivals_per_step):
            name = f"urgent {step_number} {number}"
            scheduler.add(make_request(name, 1, max_tokens=1, due=due_at(step_number, 0, 1)))
        step = scheduler.schedule(100)
        if "patient" in lengths(step):
            return
        commit(scheduler, step)
    raise AssertionError(f"not served within {bound} steps")


def test_long_prompt_of_a_lower_class_does_not_hold_up_an_urgent_one() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("long", 100, due=1))
    commit(scheduler, scheduler.schedule(10))
    scheduler.add(make_request("urgent", 8, first_id=200, due=0))
    assert lengths(scheduler.schedule(10)) == {"urgent": 8, "long": 2}


def test_aborted_request_gives_its_blocks_back_at_once() -> None:
    scheduler = make_scheduler()
    for name in ("running", "waiting"):
        scheduler.add(make_request(name, 20))
    scheduler.schedule(10)
    for name in ("running", "waiting", "unknown"):
        scheduler.abort(name)
    assert scheduler.pool.num_free == scheduler.pool.num_blocks
    assert lengths(scheduler.schedule(10)) == {}


def test_resumed_request_computes_what_was_generated_and_draws_behind_it() -> None:
    scheduler = make_scheduler()
    params = SamplingParams(seed=0, max_tokens=5)
    request = Request("resumed", [1, 2, 3], params, output_ids=[7, 8, 9, 10])
    scheduler.add(request)
    step = scheduler.schedule(100)
    assert step.chunks[0].token_ids == [1, 2, 3, 7, 8, 9, 10]
    (drawn,) = scheduler.commit(step, StepResult([11]))
    assert drawn.finish_reason == "length"


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


def test_prefix_that_has_left_the_window_is_found_again() -> None:
    scheduler = Scheduler(BlockPool(16, BLOCK_SIZE), 4, window=6)
    scheduler.add(make_request("first", 22))
    commit(scheduler, scheduler.schedule(30))
    assert scheduler.pool.num_free == 16 - 2  # of six; four are not seen
    again = make_request("again", 22)
    scheduler.add(again)
    scheduler.schedule(30)
    assert again.num_cached == 20
