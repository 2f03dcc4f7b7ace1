"""Our models against transformers on the same weights, in float32.

Largest differences seen: 1.1e-4 for SmolLM2 from GGUF, 5.2e-6 for the tiny models; the bounds leave
room for other processors' order of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openinference_engine.__main__ import build_parser, engine_config
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.request import Request, SamplingParams
from openinference_engine.runner import Runner
from openinference_engine.scheduler import Chunk, Draw, Step
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


@pytest.fixture(scope="session")
def expected_tokens(smollm2_oracle: Any, prompt_ids: list[list[int]]) -> list[list[int]]:
    return [greedy_tokens(smollm2_oracle, ids) for ids in prompt_ids]


def test_smollm2_logits_equal_transformers(
    smollm2_engine: Engine, smollm2_oracle: Any, prompt_ids: list[list[int]]
) -> None:
    for ids in prompt_ids:
        with torch.inference_mode():
            expected = smollm2_oracle(torch.tensor([ids])).logits[0, -1]
        torch.testing.assert_close(last_logits(smollm2_engine, ids), expected, atol=2e-3, rtol=0)


def test_smollm2_greedy_tokens_equal_transformers_alone(
    smollm2_engine: Engine,
    prompt_ids: list[list[int]],
    expected_tokens: list[list[int]],
    run_to_end: Any,
    greedy: Any,
) -> None:
    for ids, expected in zip(prompt_ids, expected_tokens, strict=True):
        outputs = run_to_end(smollm2_engine, [Request("alone", ids, greedy(NUM_TOKENS))])
        assert outputs["alone"] == expected


def test_smollm2_greedy_tokens_equal_transformers_batched(
    smollm2_engine: Engine,
    prompt_ids: list[list[int]],
    expected_tokens: list[list[int]],
    run_to_end: Any,
    greedy: Any,
) -> None:
    requests = [
        Request(str(index), ids, greedy(NUM_TOKENS)) for index, ids in enumerate(prompt_ids)
    ]
    assert list(run_to_end(smollm2_engine, requests).values()) == expected_tokens


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
    assert outputs["greedy"] == greedy_tokens(oracle, ids)


def greedy_tokens(oracle: Any, ids: list[int]) -> list[int]:
    return oracle.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=NUM_TOKENS,
        min_new_tokens=NUM_TOKENS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[0, len(ids) :].tolist()


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


def test_missing_tensor_is_one_sentence(make_tiny_model: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = make_tiny_model() / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(StartError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj"):
        Engine(open_checkpoint(path.parent), EngineConfig(""))


def test_unknown_architecture_is_named(make_tiny_model: Callable[..., Path]) -> None:
    folder = make_tiny_model()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "MambaForCausalLM"))
    with pytest.raises(StartError, match="architecture 'MambaForCausalLM' is unknown; known are"):
        Engine(open_checkpoint(folder), EngineConfig(""))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 257}, "--max-model-len 257 is outside .* use 1 to 256"),
        ({"kv_cache_bytes": 1000}, "--kv-cache-bytes 1000 holds 0 tokens; lower --max-model-len"),
    ],
)
def test_model_that_does_not_fit_is_refused(
    tiny_llama: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        Engine(open_checkpoint(tiny_llama), EngineConfig("", **settings))


@pytest.mark.parametrize("settings", [{"weights": "fp8"}, {"activations": "int8"}])
def test_what_a_gpu_alone_does_is_refused(tiny_llama: Path, settings: dict[str, Any]) -> None:
    (flag, value), *_ = settings.items()
    with pytest.raises(StartError, match=f"--{flag} {value} is for --device cuda; a CPU"):
        Engine(open_checkpoint(tiny_llama), EngineConfig("", **settings))


def test_activations_are_a_flag() -> None:
    options = build_parser().parse_args(["serve", "file:///model.gguf", "--activations", "int8"])
    assert engine_config(options).activations == "int8"


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
