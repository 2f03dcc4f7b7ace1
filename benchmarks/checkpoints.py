"""A seeded random checkpoint of a known shape, as a folder that the engine serves.

    python -m benchmarks.checkpoints --shape llama-2-7b [--gptq] /dev/shm/llama-2-7b

Loading depends on shapes, types and bytes alone. Every weight has a random sign and mantissa and
one exponent, which fits its matrix; a layer is a file, written by a thread of its own. --gptq makes
the projections of layers random four-bit codes with zeros, in groups of 128, as GPTQ stores them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from openinference_engine.config import ModelConfig
from openinference_engine.quantise.safetensors_writer import RawTensor, write_safetensors
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from benchmarks.shapes import SHAPES

_EXPONENT_BIAS, _MANTISSA_BITS, _SIGN_AND_MANTISSA = 127, 7, 0x807F
_GROUP_INPUTS = 128
_ROUTER_RAISED = 2  # so that experts are seldom nearly as likely
Shapes = dict[str, tuple[int, ...]]


def write_checkpoint(folder: Path, config: ModelConfig, is_gptq: bool = False) -> int:
    """The folder's bytes of weights; it is made, and must not be there. Experts: of a Qwen3-MoE."""
    folder.mkdir(parents=True)
    _write_description(folder, config, is_gptq)
    files = list(_shapes_by_file(config))

    def write(number: int) -> int:
        random = np.random.default_rng(number)
        tensors: dict[str, RawTensor] = {}
        for name, shape in files[number].items():
            if is_gptq and name.endswith("_proj.weight"):
                tensors |= _random_codes(random, name.removesuffix(".weight"), shape)
            else:
                raised = _ROUTER_RAISED if name.endswith("mlp.gate.weight") else 0
                tensors[name] = _random_tensor(random, shape, raised)
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        return write_safetensors(folder / file, tensors)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(write, range(len(files))))


def _random_codes(
    random: np.random.Generator, name: str, shape: tuple[int, ...]
) -> dict[str, RawTensor]:
    outputs, inputs = shape
    groups = inputs // _GROUP_INPUTS
    scales = np.full((groups, outputs), inputs**-0.5 / 8, np.float16)
    words = {"qweight": (inputs // 8, outputs), "qzeros": (groups, outputs // 8)}
    tensors = {
        f"{name}.{part}": RawTensor("I32", size, _random_bytes(random, 4 * math.prod(size)))
        for part, size in words.items()
    }
    return tensors | {f"{name}.scales": RawTensor("F16", scales.shape, scales)}


def _random_bytes(random: np.random.Generator, count: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(bytearray(random.bytes(count)), np.uint8)


def _random_tensor(
    random: np.random.Generator, shape: tuple[int, ...], raised: int = 0
) -> RawTensor:
    """raised: by so many powers of two the values are larger than their matrix asks for."""
    if len(shape) == 1:
        ones = np.full(shape, _EXPONENT_BIAS << _MANTISSA_BITS, np.uint16)
        return RawTensor("BF16", shape, ones)
    exponent = _EXPONENT_BIAS - math.ceil(math.log2(shape[1]) / 2)  # about columns^-0.5
    exponent += raised
    values = _random_bytes(random, 2 * math.prod(shape)).view(np.uint16)
    values &= _SIGN_AND_MANTISSA
    values |= exponent << _MANTISSA_BITS
    return RawTensor("BF16", shape, values)


def _shapes_by_file(config: ModelConfig) -> Iterator[Shapes]:
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    matrices: Shapes = {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    if config.norms_heads:
        matrices |= {f"self_attn.{name}_norm": (config.head_dim,) for name in "qk"}
    if (experts := config.experts) is None:
        matrices |= _feed_forward("mlp", hidden, inner)
    else:
        matrices["mlp.gate"] = (experts.count, hidden)
        for number in range(experts.count):
            name = f"mlp.experts.{number}"
            matrices |= _feed_forward(name, hidden, experts.intermediate_size)
    for layer in range(config.num_layers):
        yield {f"model.layers.{layer}.{name}.weight": shape for name, shape in matrices.items()}
    table = (config.vocab_size, hidden)
    yield {
        "model.embed_tokens.weight": table, "model.norm.weight": (hidden,), "lm_head.weight": table
    }  # fmt: skip


def _feed_forward(name: str, hidden: int, inner: int) -> Shapes:
    return {
        f"{name}.gate_proj": (inner, hidden),
        f"{name}.up_proj": (inner, hidden),
        f"{name}.down_proj": (hidden, inner),
    }


def _write_description(folder: Path, config: ModelConfig, is_gptq: bool) -> None:
    values: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_theta": config.rope_theta,
    }
    if (experts := config.experts) is not None:
        values |= {
            "architectures": ["Qwen3MoeForCausalLM"],
            "num_experts": experts.count,
            "num_experts_per_tok": experts.per_token,
            "moe_intermediate_size": experts.intermediate_size,
            "norm_topk_prob": experts.normalises_shares,
        }
    if is_gptq:
        method = {"quant_method": "gptq", "bits": 4, "group_size": _GROUP_INPUTS}
        values["quantization_config"] = method
    (folder / "config.json").write_text(json.dumps(values))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: index for index, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--gptq", action="store_true", help="four-bit codes instead of bfloat16")
    options = parser.parse_args()
    num_bytes = write_checkpoint(options.folder, SHAPES[options.shape], options.gptq)
    print(f"{options.folder}: {num_bytes / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
