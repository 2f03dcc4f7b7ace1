"""A model whose layers all slide holds the blocks of its window, and says the same with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import Checkpoint, open_checkpoint

WINDOW, LENGTH = 20, 150
BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, float32


@pytest.fixture(scope="module")
def mistral(make_tiny_model: Callable[..., Path]) -> Checkpoint:
    return open_checkpoint(make_tiny_model("Mistral", sliding_window=WINDOW))


def requests() -> list[Request]:
    params = SamplingParams(seed=0, max_tokens=LENGTH - 9, temperature=0)
    return [
        Request(str(number), [number + 5 * place for place in range(9)], params)
        for number in range(4)
    ]


def test_four_long_answers_fit_where_one_would_without_a_window(
    mistral: Checkpoint, run_to_end: Callable[..., dict[str, list[int]]]
) -> None:
    """Ten blocks each, in twelve: blocks that others left are written while these are read."""
    settings: dict[str, Any] = {"max_sequences": 4, "max_model_len": 160}
    alone = Engine(mistral, EngineConfig("", max_sequences=1, max_model_len=160))
    expected: dict[str, list[int]] = {}
    for request in requests():
        expected |= run_to_end(alone, [request])
    small = EngineConfig("", **settings, kv_cache_bytes=12 * 16 * BYTES_PER_TOKEN)
    together = Engine(mistral, small)
    assert run_to_end(together, requests()) == expected
    assert together.scheduler.num_preemptions == 0


def test_layer_that_sees_all_keeps_all(make_tiny_model: Callable[..., Path]) -> None:
    mixed = open_checkpoint(
        make_tiny_model(
            "Qwen2", sliding_window=WINDOW, use_sliding_window=True, max_window_layers=1
        )
    )
    assert mixed.config.windows == (None, WINDOW)
    assert mixed.config.window is None
