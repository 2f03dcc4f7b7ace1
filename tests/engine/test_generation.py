"""Same request, same tokens: whatever runs beside it and however it is cut up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams

NUM_TOKENS = 24
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50}
PROMPTS = [[(7 * index + 3 * place) % 250 for place in range(20 + index)] for index in range(8)]


def make_requests(prefix: str, output_ids: dict[int, list[int]] | None = None) -> list[Request]:
    """Even ones greedy, odd ones sampled."""
    return [
        Request(
            f"{prefix}{index}",
            prompt,
            SamplingParams(
                seed=index,
                max_tokens=NUM_TOKENS,
                **({"temperature": 0.0} if index % 2 == 0 else SAMPLED),
            ),
            (output_ids or {}).get(index),
        )
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def alone(make_tiny_engine: Callable[..., Engine], run_to_end: Any) -> list[list[int]]:
    """The tokens of each request when it is the only one."""
    engine = make_tiny_engine(max_sequences=1, prefix_caching=False)
    return [run_to_end(engine, [request])[request.id] for request in make_requests("alone")]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="batched"),
        pytest.param({"prefix_caching": False}, id="without prefix cache"),
        pytest.param({"step_seconds": 1e-9, "block_size": 32}, id="chunked"),
        pytest.param({"max_sequences": 2}, id="two seats"),
    ],
)
def test_tokens_are_those_of_the_request_alone(
    make_tiny_engine: Callable[..., Engine],
    run_to_end: Any,
    alone: list[list[int]],
    settings: dict[str, Any],
) -> None:
    engine = make_tiny_engine(**settings)
    assert list(run_to_end(engine, make_requests("batched")).values()) == alone


def test_preempted_requests_keep_their_tokens(
    make_tiny_engine: Callable[..., Engine], run_to_end: Any, alone: list[list[int]]
) -> None:
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, float32
    engine = make_tiny_engine(
        max_model_len=64, kv_cache_bytes=160 * bytes_per_token, prefix_caching=False
    )
    assert list(run_to_end(engine, make_requests("preempted")).values()) == alone
    assert engine.scheduler.num_preemptions > 0


def test_requests_that_urgent_ones_preempt_keep_their_tokens(
    make_tiny_engine: Callable[..., Engine], alone: list[list[int]]
) -> None:
    """Every third step, another request arrives that is due before all others."""
    engine = make_tiny_engine(max_sequences=2)
    arriving = make_requests("r")
    outputs: dict[str, list[int]] = {request.id: [] for request in arriving}
    for urgency, request in enumerate(arriving):
        request.due = -float(urgency)
        engine.add(request)
        for _ in range(3):
            collect(engine, outputs)
    while engine.has_work:
        collect(engine, outputs)
    assert list(outputs.values()) == alone
    assert engine.scheduler.num_preemptions >= 6


def test_repeated_prompts_come_from_the_cache_with_the_same_tokens(
    make_tiny_engine: Callable[..., Engine], run_to_end: Any, alone: list[list[int]]
) -> None:
    engine = make_tiny_engine()
    run_to_end(engine, make_requests("first"))
    again = make_requests("again")
    assert list(run_to_end(engine, again).values()) == alone
    assert [request.num_cached for request in again] == [
        (len(prompt) - 1) // 16 * 16 for prompt in PROMPTS
    ]


def test_cancelled_neighbours_change_nothing(
    make_tiny_engine: Callable[..., Engine], alone: list[list[int]]
) -> None:
    engine = make_tiny_engine()
    requests = make_requests("r")
    outputs: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add(request)
    for _ in range(5):
        collect(engine, outputs)
    for index in (0, 3, 6):
        engine.abort(f"r{index}")
    while engine.has_work:
        collect(engine, outputs)
    for index in (1, 2, 4, 5, 7):
        assert outputs[f"r{index}"] == alone[index]
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks


def test_resumed_requests_go_on_with_the_same_tokens(
    make_tiny_engine: Callable[..., Engine], run_to_end: Any, alone: list[list[int]]
) -> None:
    halves = {index: tokens[: len(tokens) // 2] for index, tokens in enumerate(alone)}
    outputs = run_to_end(make_tiny_engine(), make_requests("resumed", halves))
    for index, rest in enumerate(outputs.values()):
        assert halves[index] + rest == alone[index]


def collect(engine: Engine, outputs: dict[str, list[int]]) -> None:
    for drawn in engine.step():
        outputs[drawn.request.id].append(drawn.token_id)


def test_step_age_and_speeds_are_measured(make_tiny_engine: Callable[..., Engine]) -> None:
    engine = make_tiny_engine()
    engine.warm_up()
    assert engine.speed.prefill_tokens_per_second > 0
    assert engine.speed.decode_tokens_per_second > 0
    steps = engine.num_steps
    engine.probe()
    assert engine.num_steps == steps + 1
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
