from __future__ import annotations

from collections.abc import Callable

import pytest
from openinference_engine.engine import Engine
from openinference_engine.speed import SpeedMeter


def test_decode_and_prefill_are_measured_apart() -> None:
    meter = SpeedMeter()
    assert (meter.prefill_tokens_per_second, meter.decode_tokens_per_second) == (0, 0)
    meter.observe(num_tokens=100, num_decodes=0, seconds=0.5)
    meter.observe(num_tokens=4, num_decodes=4, seconds=0.1)
    assert meter.prefill_tokens_per_second == pytest.approx(200)
    assert meter.decode_tokens_per_second == pytest.approx(40)


def test_mixed_step_counts_as_prefill() -> None:
    meter = SpeedMeter()
    meter.observe(num_tokens=50, num_decodes=10, seconds=0.5)
    assert (meter.prefill_tokens_per_second, meter.decode_tokens_per_second) == (100, 0)


def test_small_prefill_hardly_moves_the_speed() -> None:
    meter = SpeedMeter()
    meter.observe(num_tokens=400, num_decodes=0, seconds=1.0)
    meter.observe(num_tokens=2, num_decodes=0, seconds=0.05)
    assert meter.prefill_tokens_per_second > 350


def test_recent_steps_count_more() -> None:
    meter = SpeedMeter()
    for _ in range(50):
        meter.observe(num_tokens=10, num_decodes=10, seconds=1.0)
    for _ in range(30):
        meter.observe(num_tokens=10, num_decodes=10, seconds=0.1)
    assert meter.decode_tokens_per_second > 60


@pytest.mark.parametrize(
    ("tokens_per_second", "budget"), [(400, 100), (40, 32), (100_000, 512), (None, 32)]
)
def test_budget_is_what_fits_into_a_step(tokens_per_second: int | None, budget: int) -> None:
    meter = SpeedMeter()
    if tokens_per_second:
        meter.observe(tokens_per_second, 0, seconds=1.0)
    assert meter.token_budget(0.25, lowest=32, highest=512) == budget


def test_prediction_is_the_inverse_of_speed() -> None:
    meter = SpeedMeter()
    assert meter.predict_seconds(100, 0) == 0
    meter.observe(100, 0, seconds=0.5)
    assert meter.predict_seconds(200, 0) == pytest.approx(1.0)


def test_warm_up_measures_both_speeds_and_leaves_nothing(
    make_tiny_engine: Callable[..., Engine],
) -> None:
    engine = make_tiny_engine()
    engine.warm_up()
    assert engine.speed.prefill_tokens_per_second > 0
    assert engine.speed.decode_tokens_per_second > 0
    steps = engine.num_steps
    engine.probe()
    assert engine.num_steps == steps + 1
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
