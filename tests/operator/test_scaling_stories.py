"""The autoscaler as a pure function: whole stories in time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinference_operator.scaling import Demand
from openinference_operator.scaling_spec import SCALE_DOWN, SCALE_UP, Policy

from tests.operator.scalers import LOST, autoscaling, play, rules, waiting


def test_policies_count_the_changes_of_their_period():
    scaler = autoscaling(up=rules(Policy("Pods", 1, 60)))
    assert play(scaler, 1, [waiting(40)] * 9) == [2, 2, 2, 2, 3, 3, 3, 3, 4]


def test_scale_down_waits_for_its_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    assert play(scaler, 3, [waiting(0)] * 5) == [3, 3, 3, 1, 1]


def test_a_busy_moment_restarts_the_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    demands = [waiting(0), waiting(0), waiting(12), *[waiting(0)] * 5]
    assert play(scaler, 3, demands) == [3, 3, 3, 3, 3, 3, 1, 1]


def test_scale_up_waits_for_its_window():
    scaler = autoscaling(up=rules(Policy("Pods", 100, 15), window=30))
    assert play(scaler, 1, [waiting(8)] * 3) == [1, 2, 2]


def test_a_new_leader_begins_a_new_window():
    scaler = autoscaling(down=SCALE_DOWN)
    assert play(scaler, 5, [waiting(0)] * 19) == [5] * 19
    assert play(scaler, 5, [waiting(0)] * 20)[-1] == 1


def test_lost_metrics_restart_the_window():
    scaler = autoscaling(down=rules(Policy("Percent", 100, 15), window=60))
    demands = [waiting(0), LOST, *[waiting(0)] * 4]
    assert play(scaler, 3, demands) == [3, 3, 3, 3, 3, 1]


IDLE, BUSY = waiting(0), waiting(0, running=1)


def test_to_zero_when_idle_for_long_enough_whatever_the_window():
    scaler = autoscaling(minimum=0, down=SCALE_DOWN)
    assert play(scaler, 3, [IDLE] * 6) == [3, 3, 3, 3, 0, 0]


def test_one_replica_stays_until_then():
    scaler = autoscaling(minimum=0)
    assert play(scaler, 3, [IDLE] * 5) == [1, 1, 1, 1, 0]


@pytest.mark.parametrize("interruption", [BUSY, waiting(1), LOST], ids=["busy", "waiting", "lost"])
def test_idleness_begins_anew_after(interruption):
    scaler = autoscaling(minimum=0)
    demands = [IDLE, IDLE, IDLE, interruption, *[IDLE] * 5]
    assert play(scaler, 1, demands) == [1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_without_a_minimum_of_zero_idleness_changes_nothing():
    assert play(autoscaling(minimum=1), 1, [IDLE] * 9) == [1] * 9


def test_scaling_down_that_is_disabled_does_not_reach_zero():
    scaler = autoscaling(minimum=0, down=rules(select="Disabled"))
    assert play(scaler, 1, [IDLE] * 9) == [1] * 9


FROM_ZERO = {
    "one request": (waiting(1), SCALE_UP, 1),
    "many requests, within the policies": (waiting(40), SCALE_UP, 4),
    "whatever the window": (waiting(1), rules(Policy("Pods", 4, 15), window=300), 1),
    "when only percentages are allowed": (waiting(40), rules(Policy("Percent", 100, 15)), 1),
    "when scaling up is disabled": (
        waiting(40),
        rules(Policy("Pods", 4, 15), select="Disabled"),
        1,
    ),
    "nobody asks": (IDLE, SCALE_UP, 0),
    "lost": (LOST, SCALE_UP, 0),
}


@pytest.mark.parametrize(("demand", "up", "desired"), FROM_ZERO.values(), ids=FROM_ZERO.keys())
def test_from_zero(demand, up, desired):
    assert play(autoscaling(up=up, minimum=0), 0, [demand]) == [desired]


demands = st.one_of(
    st.just(LOST),
    st.builds(Demand, st.floats(0, 1000), st.floats(0, 1000), st.just("Prometheus")),
)


@given(st.lists(demands, min_size=1, max_size=30), st.integers(0, 12), st.integers(0, 12))
def test_desired_stays_within_bounds(series, current, routable):
    history = play(autoscaling(up=SCALE_UP, minimum=2, maximum=9), current, series, 15.0, routable)
    assert all(2 <= desired <= 9 for desired in history)


@given(st.lists(st.just(LOST) | demands, max_size=19), st.integers(1, 10))
def test_nothing_scales_down_before_a_full_window_was_seen(series, current):
    history = [current, *play(autoscaling(up=SCALE_UP, down=SCALE_DOWN), current, series)]
    assert history == sorted(history)
