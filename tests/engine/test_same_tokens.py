"""The same-tokens matrix: same request, same tokens, from the same bits of logits.

Whatever runs beside it and however it is cut up, on float weights and on quantised ones, with dense
layers and with experts, and from a cache of fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint

NUM_TOKENS = 16
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50}
PROMPTS = [[(7 * index + 3 * place) % 250 for place in range(20 + index)] for index in range(32)]
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}
EXPERTS = SHAPE | {"num_local_experts": 6, "num_experts_per_tok": 2}

MakeEngine = Callable[..., Engine]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("Llama", SHAPE, None, "auto"), id="float32"),
        pytest.param(("Llama", SHAPE, None, "int8-int4"), id="coded cache"),
        pytest.param(("Llama", SHAPE, "Q4_0", "auto"), id="packed"),
        pytest.param(("Mixtral", EXPERTS, None, "auto"), id="float32 experts"),
        pytest.param(("Mixtral", EXPERTS, "Q8_0", "auto"), id="packed experts"),
    ],
)
def make_engine(
    request: pytest.FixtureRequest,
    make_tiny_model: Callable[..., Path],
    save_as_gguf: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> MakeEngine:
    family, shape, quantisation, cache_dtype = request.param
    path = make_tiny_model(family, **shape)
    if quantisation is not None:
        folder = tmp_path_factory.mktemp("gguf")
        path = save_as_gguf(path, folder / "model.gguf", quantisation)
    checkpoint = open_checkpoint(path)
    token_bytes = checkpoint.config.kv_bytes_per_token(CPU_FORMATS[cache_dtype])

    def make(cache_tokens: int | None = None, **settings: Any) -> Engine:
        if cache_tokens is not None:
            settings["kv_cache_bytes"] = cache_tokens * token_bytes
        settings = {"max_sequences": 32, "kv_cache_dtype": cache_dtype} | settings
        return Engine(checkpoint, EngineConfig("", **settings))

    return make


@dataclass
class Run:
    """Requests by number, the tokens each drew, and the logits behind each of its positions."""

    engine: Engine
    tokens: dict[int, list[int]] = field(default_factory=dict)
    logits: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        compute = self.engine.runner.compute

        def record(step: Any) -> tuple[torch.Tensor, torch.Tensor]:
            states, rows = compute(step)
            drawing = [chunk for chunk in step.chunks if chunk.draw is not None]
            for chunk, row in zip(drawing, rows, strict=True):
                position = chunk.start + len(chunk.token_ids)
                self.logits[int(chunk.request_id), position] = row.clone()
            return states, rows

        self.engine.runner.compute = record  # type: ignore[method-assign]

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.tokens[int(request.id)] = []
            self.engine.add(request)

    def step(self) -> None:
        for drawn in self.engine.step():
            self.tokens[int(drawn.request.id)].append(drawn.token_id)

    def finish(self) -> Run:
        while self.engine.has_work:
            self.step()
        self.engine.scheduler.check_integrity()
        assert self.engine.scheduler.pool.num_free == self.engine.scheduler.pool.num_blocks
        return self

    def assert_as(self, alone: Run, *numbers: int) -> None:
        """Every logit of the requests `numbers` (default: of all) has the bits it has alone."""
        for number in numbers or self.tokens:
            assert self.tokens[number] == alone.tokens[number]
        assert self.logits
        for (number, position), row in self.logits.items():
            assert torch.equal(row, alone.logits[number, position]), (number, position)


def requests(resumed: dict[int, list[int]] | None = None) -> list[Request]:
    """Even ones greedy, odd ones sampled."""
    return [
        Request(
            str(index),
            prompt,
            SamplingParams(
                seed=index,
                max_tokens=NUM_TOKENS,
                **({"temperature": 0.0} if index % 2 == 0 else SAMPLED),
            ),
            (resumed or {}).get(index),
        )
        for index, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def alone(make_engine: MakeEngine) -> Run:
    """Each request when it is the only one."""
    run = Run(make_engine(max_sequences=1, prefix_caching=False))
    for request in requests():
        run.add(request)
        run.finish()
    return run


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="in a batch of 32"),
        pytest.param({"prefix_caching": False}, id="without prefix cache"),
        pytest.param({"step_seconds": 1e-9, "max_sequences": 3}, id="chunked"),
        pytest.param({"block_size": 32}, id="larger blocks"),
    ],
)
def test_together_is_as_alone(
    make_engine: MakeEngine, alone: Run, settings: dict[str, Any]
) -> None:
    run = Run(make_engine(**settings))
    run.add(*requests())
    run.finish().assert_as(alone)


def test_preempted_for_blocks_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    run = Run(make_engine(max_model_len=80, cache_tokens=320, prefix_caching=False))
    run.add(*requests())
    run.finish().assert_as(alone)
    assert run.engine.scheduler.num_preemptions > 0


def test_preempted_by_urgent_ones_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    """Every third step, another request arrives that is due before all others."""
    run = Run(make_engine(max_sequences=2))
    for urgency, request in enumerate(requests()):
        request.due = -float(urgency)
        run.add(request)
        for _ in range(3):
            run.step()
    run.finish().assert_as(alone)
    assert run.engine.scheduler.num_preemptions >= 6


def test_prompt_from_the_cache_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    run = Run(make_engine())
    run.add(*requests())
    run.finish()
    again = requests()
    run.add(*again)
    run.finish().assert_as(alone)
    assert [request.num_cached for request in again] == [
        (len(prompt) - 1) // 16 * 16 for prompt in PROMPTS
    ]


def test_with_cancelled_neighbours_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    run = Run(make_engine())
    run.add(*requests())
    for _ in range(5):
        run.step()
    cancelled = range(0, 32, 3)
    for number in cancelled:
        run.engine.abort(str(number))
    run.finish().assert_as(alone, *(set(range(32)) - set(cancelled)))


def test_resumed_from_half_way_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    halves = {number: tokens[: NUM_TOKENS // 2] for number, tokens in alone.tokens.items()}
    run = Run(make_engine())
    run.add(*requests(halves))
    run.finish()
    run.tokens = {number: halves[number] + rest for number, rest in run.tokens.items()}
    run.assert_as(alone)


def test_in_another_salt_is_as_alone(make_engine: MakeEngine, alone: Run) -> None:
    """What another tenant left in the cache is not found, and changes nothing."""
    run = Run(make_engine())
    run.add(*requests()[3:5])
    run.finish()
    salted = requests()[3:5]
    for request in salted:
        request.salt = b"tenant"
    run.add(*salted)
    run.finish().assert_as(alone)
    assert [request.num_cached for request in salted] == [0, 0]
