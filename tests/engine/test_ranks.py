"""Groups of ranks against one rank: seeded tiny models of every architecture, packed ones too.

The ranks are threads of this process, and everything between them is real: rendezvous, link, gloo.
`test_rank_processes.py` has them as processes. Logits are equal bit for bit in every layout.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.step import Step
from openinference_engine.weights.checkpoint import open_checkpoint

from tests.engine.rank_groups import (
    FAMILIES,
    PROMPTS,
    SHAPE,
    free_address,
    group_engine,
    layout,
    logits_of,
    one_rank,
    requests,
)

SPARSE = ("Mixtral", "Qwen3Moe")
WIDE = {"hidden_size": 384, "intermediate_size": 640, "num_attention_heads": 6}  # groups of 128


@pytest.fixture(scope="module")
def models(
    make_tiny_model: Callable[..., Path],
    save_as_gguf: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str | None], Path]:
    """A family's tiny model, as float32, packed or as codes; each is made once."""
    made: dict[tuple[str, str | None], Path] = {}

    def model(family: str, packing: str | None) -> Path:
        if (family, packing) not in made:
            changes = WIDE if packing in SCHEMES else FAMILIES[family]
            path = make_tiny_model(family.split()[0], **(SHAPE | changes))
            if packing in SCHEMES:
                source, path = path, tmp_path_factory.mktemp("codes") / "out"
                quantise_folder(source, path, SCHEMES[packing])
            elif packing is not None:
                path = save_as_gguf(path, tmp_path_factory.mktemp("gguf") / "m.gguf", packing)
            made[family, packing] = path
        return made[family, packing]

    return model


@pytest.fixture(scope="module")
def expected(
    models: Callable[..., Path], run_to_end: Any
) -> Callable[..., tuple[torch.Tensor, dict[str, list[int]]]]:
    """Logits and greedy tokens of one rank."""
    known: dict[Path, Any] = {}

    def of(path: Path) -> Any:
        if path not in known:
            engine = one_rank(path)
            known[path] = logits_of(engine, PROMPTS[5]), run_to_end(engine, requests())
        return known[path]

    return of


@pytest.mark.parametrize(
    ("sizes", "family", "packing"),
    [
        *((layout(2, 2), family, None) for family in FAMILIES),
        *((layout(1, 3), family, None) for family in FAMILIES if "few" not in family),
        *((layout(2), family, None) for family in FAMILIES),
        *((layout(1, 1, 2), family, None) for family in SPARSE),
        *((layout(1, 2, 2), family, None) for family in SPARSE),
        (layout(2, 3, 1), "Llama", "Q4_0"),
        (layout(1, 2), "Llama", "Q8_0"),
        (layout(1, 3), "Llama", "int4-zero"),
        (layout(2, 2), "Qwen3", "Q4_1"),
        (layout(1, 2, 2), "Mixtral", "Q8_0"),
        (layout(1, 3), "Mixtral", "Q4_0"),
        (layout(4), "Qwen2", None),
        (layout(1, 4), "Llama of few key heads", None),
        (layout(2, 2, 2), "Mixtral", None),
        (layout(4, 2), "Mistral", None),
    ],
)
def test_group_computes_what_one_rank_does(
    models: Callable[..., Path],
    expected: Callable[..., Any],
    run_to_end: Any,
    sizes: tuple[int, int, int],
    family: str,
    packing: str | None,
) -> None:
    path = models(family, packing)
    logits, tokens = expected(path)
    with group_engine(path, sizes) as engine:
        assert torch.equal(logits_of(engine, PROMPTS[5]), logits)
        assert run_to_end(engine, requests()) == tokens


SAMPLED = {"temperature": 0.9, "top_p": 0.95, "top_k": 50, "seed": 3}
BYTES_PER_TOKEN = 2 * 4 * 6 * 8 * 4  # keys and values, layers, heads, head size, float32


@pytest.fixture(scope="module")
def alone(models: Callable[..., Path], run_to_end: Any) -> dict[str, list[int]]:
    """Half greedy, half sampled: each when it is the only one, on one rank."""
    engine = one_rank(models("Llama", None))
    tokens: dict[str, list[int]] = {}
    for request in requests(**SAMPLED):
        tokens |= run_to_end(engine, [request])
    return tokens


@pytest.mark.parametrize(
    ("sizes", "settings"),
    [
        pytest.param(layout(2), {}, id="in micro-batches"),
        pytest.param(layout(4), {"prefix_caching": False}, id="of four stages"),
        pytest.param(layout(2), {"step_seconds": 1e-9, "max_sequences": 3}, id="chunked"),
        pytest.param(layout(2), {"block_size": 32}, id="larger blocks"),
    ],
)
def test_pipelined_is_as_alone(
    models: Callable[..., Path],
    alone: dict[str, list[int]],
    run_to_end: Any,
    sizes: tuple[int, int, int],
    settings: dict[str, Any],
) -> None:
    with group_engine(models("Llama", None), sizes, **settings) as engine:
        assert run_to_end(engine, requests(**SAMPLED)) == alone
        assert (
            run_to_end(engine, requests(**SAMPLED)) == alone
        )  # from the prefix cache, if it is on


@pytest.mark.parametrize("sizes", [layout(2), layout(1, 2)], ids=["stages", "tensor ranks"])
def test_ranks_code_their_part_of_the_cache_as_one_rank_does(
    models: Callable[..., Path], run_to_end: Any, sizes: tuple[int, int, int]
) -> None:
    """Scales belong to a head, which is not split."""
    path, settings = models("Llama", None), {"kv_cache_dtype": "int8-int4", "max_sequences": 8}
    expected = run_to_end(Engine(open_checkpoint(path), EngineConfig("", **settings)), requests())
    with group_engine(path, sizes, **settings) as engine:
        assert run_to_end(engine, requests()) == expected


def test_pipelined_and_preempted_is_as_alone(
    models: Callable[..., Path], alone: dict[str, list[int]], run_to_end: Any
) -> None:
    """Blocks of a sequence that a step under way still writes go to another one."""
    settings = {"max_model_len": 64, "kv_cache_bytes": 112 * BYTES_PER_TOKEN}
    with group_engine(models("Llama", None), layout(2), **settings) as engine:
        assert run_to_end(engine, requests(**SAMPLED)) == alone
        assert engine.scheduler.num_preemptions > 0


def test_cancelled_in_a_pipeline_leaves_the_others_as_alone(
    models: Callable[..., Path], alone: dict[str, list[int]]
) -> None:
    tokens: dict[str, list[int]] = {}
    with group_engine(models("Llama", None), layout(2)) as engine:
        for request in requests(**SAMPLED):
            engine.add(request)
        for turn in range(1000):
            if turn == 7:
                engine.abort("0")
                engine.abort("3")
            for drawn in engine.step():
                tokens.setdefault(drawn.request.id, []).append(drawn.token_id)
            if not engine.has_work:
                break
        assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
    for number in ("1", "2", "4", "5"):
        assert tokens[number] == alone[number]


def test_all_stages_have_a_step_at_batch(models: Callable[..., Path]) -> None:
    """While requests decode, a turn begins one step and ends another: each stage always has one."""
    with group_engine(models("Llama", None), layout(4)) as engine:
        for request in requests():
            engine.add(request)
        for _ in range(12):
            engine.step()
        assert len(engine._under_way) == 3  # and one that the turn has just ended


def test_turn_without_work_leaves_a_group_as_it_is(models: Callable[..., Path]) -> None:
    """All that waited has expired, say."""
    with group_engine(models("Llama", None), layout(2)) as engine:
        assert engine.step() == []


def test_step_may_take_as_long_as_all_that_are_before_it(models: Callable[..., Path]) -> None:
    """A short step behind a long one must not end a group that still computes the long one."""
    with group_engine(models("Llama", None), layout(3), max_step_tokens=64) as engine:
        runner: Any = engine.runner
        allowed: list[float] = []
        expect = runner._link.watch.expect
        runner._link.watch.expect = lambda seconds: (allowed.append(seconds), expect(seconds))
        runner._speed.observe(64, 0, 2.0)
        runner._speed.observe(1, 1, 0.001)
        for request in requests():
            engine.add(request)
        for _ in range(3):
            engine.step()
        engine.execute(Step([]))
        assert len(engine._under_way) == 1
        assert allowed == sorted(allowed)
        assert runner._link.watch._deadline < float("inf")


def test_ranks_meet_at_an_ipv6_address(
    models: Callable[..., Path], expected: Callable[..., Any]
) -> None:
    path = models("Llama", None)
    try:
        free_address("[::1]")
    except OSError:
        pytest.skip("this machine has no IPv6")
    with group_engine(path, layout(2), host="[::1]") as engine:
        assert torch.equal(logits_of(engine, PROMPTS[5]), expected(path)[0])
