"""A request that cannot be computed, or waits too long, ends alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.core.client import CoreClient
from openinference_engine.core.messages import Loaded, Submit, Token
from openinference_engine.core.spawned import SpawnedCore
from openinference_engine.engine import Engine, Failed
from openinference_engine.errors import GenerationFailed, Unavailable
from openinference_engine.request import Request
from openinference_engine.step import Step

UNKNOWN_TOKEN = 10**6  # no check stands between these tests and the model


def run(engine: Engine) -> tuple[dict[str, list[int]], list[Failed]]:
    outputs: dict[str, list[int]] = {}
    failed: list[Failed] = []
    while engine.has_work:
        for result in engine.step():
            if isinstance(result, Failed):
                failed.append(result)
            else:
                outputs.setdefault(result.request.id, []).append(result.token_id)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    return outputs, failed


def test_request_that_cannot_be_computed_ends_alone(
    make_tiny_engine: Callable[..., Engine], run_to_end: Any, greedy: Any
) -> None:
    prompts = {"first": [5, 6, 7], "bad": [8, UNKNOWN_TOKEN], "last": [9] * 20}
    healthy = [Request(name, prompts[name], greedy(12)) for name in ("first", "last")]
    expected = run_to_end(make_tiny_engine(), healthy)
    engine = make_tiny_engine()
    for name, prompt in prompts.items():
        engine.add(Request(name, prompt, greedy(12)))

    outputs, failed = run(engine)

    assert outputs == expected
    assert failed == [Failed("bad", "error")]


def test_request_that_cannot_be_computed_ends_alone_where_no_block_is_free(
    make_tiny_engine: Callable[..., Engine], run_to_end: Any, greedy: Any
) -> None:
    """The probe that clears the model of blame needs no block of theirs, nor harms one."""
    settings = {"max_sequences": 2, "max_model_len": 64}
    prompt = [5 + index % 40 for index in range(50)]
    expected = run_to_end(make_tiny_engine(**settings), [Request("good", prompt, greedy(12))])
    engine = make_tiny_engine(**settings)
    good = Request("good", prompt, greedy(12))
    engine.add(good)
    while good.num_outputs < 1:
        engine.step()
    engine.add(Request("bad", [9] * 60 + [UNKNOWN_TOKEN], greedy(1)))
    step = engine.schedule()
    assert engine.scheduler.pool.num_free == 0
    results = engine.execute(step)

    _, failed = run(engine)

    assert good.token_ids[50:] == expected["good"]
    failed += [result for result in results if isinstance(result, Failed)]
    assert failed == [Failed("bad", "error")]


def test_probe_forgets_no_prefix(make_tiny_engine: Callable[..., Engine], greedy: Any) -> None:
    engine = make_tiny_engine(max_sequences=1, max_model_len=128)
    prompts = [list(range(first, first + 64)) for first in (5, 105)]
    for index, prompt in enumerate(prompts):  # together they fill every block
        engine.add(Request(str(index), prompt, greedy(1)))
        run(engine)
    engine.probe()
    again = Request("again", [*prompts[0], 5], greedy(1))
    engine.add(again)
    run(engine)
    assert again.num_cached == 64


def test_error_that_is_no_requests_fault_is_raised(
    make_tiny_engine: Callable[..., Engine], greedy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process then ends and is started anew, instead of failing request after request. What it
    says last is of the step that failed, not of the probe behind it."""

    def fail(step: Step) -> list[int]:
        raise RuntimeError(f"the device is gone in a step of {step.chunks[0].request_id}")

    engine = make_tiny_engine()
    engine.add(Request("any", [5], greedy(3)))
    monkeypatch.setattr(engine.runner, "run", fail)

    with pytest.raises(RuntimeError, match="the device is gone in a step of any"):
        engine.step()


def test_only_requests_that_never_had_a_seat_expire(
    make_tiny_engine: Callable[..., Engine], greedy: Any
) -> None:
    engine = make_tiny_engine(max_sequences=1)
    seated = Request("seated", [5], greedy(8), due=1.0, expires=10.0)
    engine.add(seated)
    engine.step()
    engine.add(Request("urgent", [6], greedy(8), due=0.0, expires=10.0))
    engine.add(Request("late", [7], greedy(8), due=2.0, expires=10.0))
    engine.add(Request("patient", [8], greedy(8), due=3.0))
    engine.step()
    assert engine.scheduler.num_preemptions == 1

    assert engine.expire(9.9) == []
    assert engine.expire(10.0) == [Failed("late", "expired")]

    outputs, failed = run(engine)
    assert (outputs.keys(), failed) == ({"seated", "urgent", "patient"}, [])
    assert seated.num_outputs == 8


def test_turn_in_which_all_that_waited_expires_costs_nothing(
    make_tiny_engine: Callable[..., Engine], greedy: Any
) -> None:
    engine = make_tiny_engine()
    engine.add(Request("late", [5], greedy(1), due=0.0, expires=10.0))
    assert engine.expire(10.0) == [Failed("late", "expired")]
    before = engine.num_steps
    assert engine.step() == []
    assert engine.num_steps == before


@asynccontextmanager
async def running_core(config: EngineConfig) -> AsyncIterator[CoreClient]:
    client, loaded = SpawnedCore(config), asyncio.Event()
    process = asyncio.create_task(
        client.run(lambda message: loaded.set() if isinstance(message, Loaded) else None)
    )
    try:
        await asyncio.wait_for(loaded.wait(), 120)
        yield client
    finally:
        process.cancel()
        with suppress(asyncio.CancelledError):
            await process


async def collect(client: CoreClient, *submits: Submit) -> list[Token]:
    return [token async for token in client.stream(list(submits))]


async def test_core_process_survives_a_request_that_it_cannot_compute(
    tiny_llama: Path, greedy: Any
) -> None:
    async with running_core(EngineConfig(f"file://{tiny_llama}")) as client:
        good = asyncio.create_task(collect(client, Submit("good", [5, 6], greedy(100))))
        with pytest.raises(GenerationFailed, match="the engine failed on this request"):
            await collect(client, Submit("bad", [UNKNOWN_TOKEN], greedy(100)))
        assert len(await good) == 100
        assert len(await collect(client, Submit("next", [5, 6], greedy(10)))) == 10


async def test_stream_of_a_core_that_has_ended_is_left_without_an_error(
    tiny_llama: Path, greedy: Any
) -> None:
    """Whoever had read enough, or was cancelled, heard instead that the core has ended."""
    async with running_core(EngineConfig(f"file://{tiny_llama}")) as client:
        tokens = client.stream([Submit("any", [5], greedy(100))])
        assert (await anext(tokens)).request_id == "any"
    await tokens.aclose()


async def test_grammar_is_given_up_when_the_core_ends(tiny_llama: Path) -> None:
    """Whoever waited for it waited for ever, in a program that goes on after its engine."""
    async with running_core(EngineConfig(f"file://{tiny_llama}")) as client:
        compiling = asyncio.create_task(client.compile("{}"))
        await asyncio.sleep(0)  # it is sent
    with pytest.raises(Unavailable, match="the engine core has ended"):
        await asyncio.wait_for(compiling, 10)


async def test_request_that_finds_a_free_seat_has_not_waited_for_one(
    tiny_llama: Path, greedy: Any
) -> None:
    """Regression: what held up the core between a request and its first step counted as waiting,
    and the request was told that no seat was free.
    """
    config = EngineConfig(f"file://{tiny_llama}", queue_timeout_seconds=1e-9)
    async with running_core(config) as client:
        assert len(await collect(client, Submit("only", [5], greedy(3)))) == 3


async def test_request_that_waits_too_long_for_a_seat_is_told_so(
    make_tiny_model: Callable[..., Path], greedy: Any
) -> None:
    folder = make_tiny_model(max_position_embeddings=8192)
    config = EngineConfig(f"file://{folder}", max_sequences=1, queue_timeout_seconds=0.3)
    async with (
        running_core(config) as client,
        aclosing(client.stream([Submit("seated", [5], greedy(8000))])) as seated,
    ):
        await anext(seated)
        with pytest.raises(Unavailable, match=r"no seat was free for 0\.3 s"):
            await collect(client, Submit("late", [6], greedy(8)))
        assert (await anext(seated)).finish_reason is None
