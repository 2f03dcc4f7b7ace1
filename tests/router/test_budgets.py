import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.budgets import (
    MIN_RETRY_BURST,
    RETRIES_PER_REQUEST,
    RETRIES_PER_SECOND,
    CapacityClock,
    RetryBudget,
    Spent,
)

FLIPS = st.lists(st.tuples(st.floats(0, 100), st.booleans()))


@given(FLIPS)
def test_all_time_is_spent_either_cold_or_contended(flips):
    clock, now = CapacityClock(0.0), 0.0
    for passed, has_capacity in flips:
        now += passed
        clock.set(has_capacity, now)
    spent = clock.read(now)
    assert spent.cold + spent.contended == pytest.approx(now)


def test_a_cold_start_leaves_the_contended_budget_whole():
    clock = CapacityClock(0.0)
    arrival = clock.read(10.0)
    clock.set(True, 70.0)
    assert clock.read(75.0).since(arrival) == Spent(cold=60.0, contended=5.0)


STEPS = st.lists(st.tuples(st.sampled_from(["request", "retry"]), st.floats(0, 2)), max_size=300)


@given(STEPS, st.integers(0, 200))
def test_retries_never_exceed_the_burst_and_what_was_earned(steps, open_requests):
    budget, now, retries, requests = RetryBudget(0.0), 0.0, 0, 0
    for step, passed in steps:
        now += passed
        if step == "request":
            budget.earn()
            requests += 1
        else:
            retries += budget.spend(open_requests, now)
    burst = max(MIN_RETRY_BURST, 2 * open_requests)
    earned = RETRIES_PER_REQUEST * requests + RETRIES_PER_SECOND * now
    assert retries <= burst + earned + 1e-6


def test_the_loss_of_every_replica_at_once_is_within_the_budget():
    budget = RetryBudget(0.0)
    assert all(budget.spend(open_requests=300, now=0.0) for _ in range(300))


def test_replicas_that_fail_again_and_again_run_out_of_it():
    budget = RetryBudget(0.0)
    assert sum(budget.spend(open_requests=0, now=0.0) for _ in range(1000)) == MIN_RETRY_BURST
    assert budget.spend(open_requests=0, now=1.0)
