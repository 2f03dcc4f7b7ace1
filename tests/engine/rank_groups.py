"""Groups whose ranks are threads of the test, and the tiny models that they share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.engine import Engine
from openinference_engine.ranks.worker import serve_rank
from openinference_engine.request import Request, SamplingParams
from openinference_engine.step import Chunk, Draw, Step
from openinference_engine.weights.checkpoint import open_checkpoint

from tests.ports import free_port

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
    return f"{host}:{free_port(host.strip('[]'))}"


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
