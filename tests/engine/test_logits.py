"""Our models against transformers on the same weights, in float32.

Largest differences seen: 1.1e-4 for SmolLM2 from GGUF, 5.2e-6 for the tiny models; the bounds leave
room for other processors' order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.runner import Runner
from openinference_engine.step import Chunk, Draw, Step
from openinference_engine.weights.checkpoint import open_checkpoint

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time, in a land far away,",
    "Water boils at",
    "1 2 3 4 5",
    "The quick brown fox",
    "Dear Sir or Madam,",
    "In 1969, the first",
]
NUM_TOKENS = 64


@pytest.fixture(scope="session")
def prompt_ids(smollm2: Any, smollm2_path: Path) -> list[list[int]]:
    from openinference_engine.tokenizer.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(smollm2, smollm2_path)
    return [tokenizer.encode(prompt) for prompt in PROMPTS]


def test_smollm2_logits_equal_transformers(
    smollm2_engine: Engine, smollm2_oracle: Any, prompt_ids: list[list[int]]
) -> None:
    for ids in prompt_ids:
        with torch.inference_mode():
            expected = smollm2_oracle(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(last_logits(smollm2_engine, ids), expected, atol=2e-3, rtol=0)


def test_smollm2_greedy_tokens_equal_transformers_alone(
    smollm2_engine: Engine,
    smollm2_oracle: Any,
    prompt_ids: list[list[int]],
    run_to_end: Any,
    greedy: Any,
) -> None:
    for ids in prompt_ids:
        outputs = run_to_end(smollm2_engine, [Request("alone", ids, greedy(NUM_TOKENS))])
        check_greedy(smollm2_oracle, ids, outputs["alone"])


def test_smollm2_greedy_tokens_equal_transformers_batched(
    smollm2_engine: Engine,
    smollm2_oracle: Any,
    prompt_ids: list[list[int]],
    run_to_end: Any,
    greedy: Any,
) -> None:
    requests = [
        Request(str(index), ids, greedy(NUM_TOKENS)) for index, ids in enumerate(prompt_ids)
    ]
    outputs = run_to_end(smollm2_engine, requests).values()
    for ids, output in zip(prompt_ids, outputs, strict=True):
        check_greedy(smollm2_oracle, ids, output)


def test_embedding_is_the_state_behind_the_last_token(
    http: httpx2.Client, smollm2_oracle: Any
) -> None:
    """Through the API; more inputs than seats, and equal inputs are equal to the bit."""
    texts = ["The cat sat on the mat.", "A feline rests.", "Interest rates rose."] * 2
    body = {"model": "smollm2", "input": texts}
    found = [one["embedding"] for one in http.post("/v1/embeddings", json=body).json()["data"]]
    for text, embedding in zip(texts, found, strict=True):
        token_ids = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        with torch.inference_mode():
            states = smollm2_oracle.model(torch.tensor([token_ids])).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(states, dim=0)
        torch.testing.assert_close(torch.tensor(embedding), expected, atol=2e-4, rtol=0)
    assert found[0] == found[3]


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
EXPERTS = {"num_local_experts": 6, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"head_dim": 16}),
        ("Llama", {"attention_bias": True}),
        ("Llama", {"rope_parameters": LLAMA3_ROPE}),
        ("Llama", {"rope_parameters": LINEAR_ROPE}),
        ("Mistral", {"sliding_window": None}),
        ("Mistral", {"sliding_window": 20}),
        ("Qwen2", {}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}),
        ("Qwen3", {"head_dim": 16}),
        ("Mixtral", EXPERTS),
        ("Mixtral", EXPERTS | {"sliding_window": 20}),
        ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 32, "norm_topk_prob": True}),
        ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 32, "norm_topk_prob": False}),
        ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 32, "mlp_only_layers": [0]}),
    ],
)
def test_tiny_model_computes_what_transformers_does(
    make_tiny_model: Callable[..., Path],
    run_to_end: Any,
    greedy: Any,
    family: str,
    changes: dict[str, Any],
) -> None:
    """Logits behind a prompt of 150 tokens, and 64 greedy tokens behind it."""
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(family, **changes)
    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = Engine(open_checkpoint(folder), EngineConfig("", max_sequences=1))
    ids = torch.randint(0, 256, (150,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        expected = oracle(torch.tensor([ids])).logits[0, -1]
    torch.testing.assert_close(last_logits(engine, ids), expected, atol=2e-5, rtol=0)

    outputs = run_to_end(engine, [Request("greedy", ids, greedy(NUM_TOKENS))])
    check_greedy(oracle, ids, outputs["greedy"])


def check_greedy(oracle: Any, ids: list[int], output: list[int]) -> None:
    """Each token is the likeliest behind all before it, so this is what the oracle would say."""
    assert len(output) == NUM_TOKENS
    with torch.inference_mode():
        logits = oracle(torch.tensor([[*ids, *output[:-1]]])).logits[0, len(ids) - 1 :]
    assert output == logits.argmax(-1).tolist()


def test_sharded_files_are_one_checkpoint(make_tiny_model: Callable[..., Path]) -> None:
    from transformers import LlamaForCausalLM

    folder = make_tiny_model()
    whole = last_logits(tiny_engine(folder), [5, 6, 7])
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    (folder / "model.safetensors").unlink()
    oracle.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert torch.equal(last_logits(tiny_engine(folder), [5, 6, 7]), whole)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {}),
        ("Qwen3", {"head_dim": 16}),
        ("Mixtral", EXPERTS),
        ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 32, "norm_topk_prob": True}),
    ],
)
def test_gguf_and_safetensors_hold_the_same_model(
    make_tiny_model: Callable[..., Path],
    save_as_gguf: Callable[..., Path],
    tmp_path: Path,
    family: str,
    changes: dict[str, Any],
) -> None:
    """To the bit in float32, whose tensors both containers only order differently."""
    folder = make_tiny_model(family, **changes)
    path = save_as_gguf(folder, tmp_path / "model.gguf", "F32")
    expected = last_logits(tiny_engine(folder), [5, 6, 7])
    assert torch.equal(last_logits(tiny_engine(path), [5, 6, 7]), expected)


def tiny_engine(folder: Path) -> Engine:
    return Engine(open_checkpoint(folder), EngineConfig("", max_sequences=1))


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_read(
    make_tiny_model: Callable[..., Path], tmp_path: Path, stored: torch.dtype
) -> None:
    from transformers import LlamaForCausalLM

    folder = make_tiny_model()
    oracle = LlamaForCausalLM.from_pretrained(folder, dtype=stored)
    oracle.save_pretrained(folder)
    engine = Engine(open_checkpoint(folder), EngineConfig("", max_sequences=1))
    with torch.inference_mode():
        expected = oracle.float()(torch.tensor([[5, 6, 7]])).logits[0, -1]
    torch.testing.assert_close(last_logits(engine, [5, 6, 7]), expected, atol=2e-5, rtol=0)


def last_logits(engine: Engine, token_ids: list[int]) -> torch.Tensor:
    """Logits behind a prompt, computed as one chunk in blocks that are given back."""
    pool = engine.scheduler.pool
    block_ids = pool.allocate(pool.blocks_for(len(token_ids)))
    assert block_ids is not None
    draw = Draw(SamplingParams(seed=0, max_tokens=1), len(token_ids), token_ids)
    runner: Runner = engine.runner
    logits = runner.compute(Step([Chunk("test", token_ids, 0, block_ids, draw)]))[1][0]
    pool.release(block_ids)
    return logits
