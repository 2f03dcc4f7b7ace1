"""The scheduler without a model: what a step holds, and who waits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from openinference_engine.blocks import BlockPool
from openinference_engine.request import Request, SamplingParams, due_at
from openinference_engine.results import StepResult
from openinference_engine.scheduler import Scheduler
from openinference_engine.step import Step

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


def test_prefix_that_has_left_the_window_is_found_again() -> None:
    scheduler = Scheduler(BlockPool(16, BLOCK_SIZE), 4, window=6)
    scheduler.add(make_request("first", 22))
    commit(scheduler, scheduler.schedule(30))
    assert scheduler.pool.num_free == 16 - 2  # of six; four are not seen
    again = make_request("again", 22)
    scheduler.add(again)
    scheduler.schedule(30)
    assert again.num_cached == 20
