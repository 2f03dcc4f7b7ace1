"""Seeded models of a few thousand weights, as folders of transformers and as GGUF files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openinference_engine.weights.checkpoint import open_checkpoint


def save_tiny_model(folder: Path, family: str, changes: dict[str, Any]) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    config = getattr(transformers, f"{family}Config")(**(shape | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms begin as ones and biases as zeros, which would hide errors
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


def save_as_gguf(folder: Path, path: Path, type_name: str) -> Path:
    import gguf
    from safetensors.numpy import load_file

    config = open_checkpoint(folder).config
    architecture = "llama" if config.architecture == "mixtral" else config.architecture
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_context_length(config.max_positions)
    writer.add_block_count(config.num_layers)
    writer.add_rope_freq_base(config.rope_theta)
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    writer.add_layer_norm_rms_eps(config.rms_norm_epsilon)
    if config.experts is not None:
        writer.add_expert_count(config.experts.count)
        writer.add_expert_used_count(config.experts.per_token)
        writer.add_expert_feed_forward_length(config.experts.intermediate_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_layers)
    tensors = load_file(folder / "model.safetensors")
    for name, values in _stack_experts(tensors).items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_heads if "q_proj" in name else config.num_kv_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2)
            values = values.reshape(-1, *values.shape[3:])
        kind = gguf.GGMLQuantizationType[type_name]
        if values.ndim == 1 or ".gate." in name:  # norms and routers
            kind = gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(
            f"{names.get_name(name.removesuffix('.weight'))}.weight", data, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    specials = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary | specials, key=(vocabulary | specials).__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([1] * len(vocabulary) + [3] * len(specials) + [1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(specials["</s>"])


def _stack_experts(tensors: dict[str, Any]) -> dict[str, Any]:
    """…experts.3.up_proj.weight and its like become one tensor …experts.up_proj.weight."""
    import numpy as np

    stacks: dict[str, list[Any]] = {}
    for name in sorted(tensors):
        head, _, tail = name.partition(".experts.")
        stacks.setdefault(f"{head}.experts.{tail[2:]}" if tail else name, []).append(tensors[name])
    return {
        name: np.stack(parts) if ".experts." in name else parts[0] for name, parts in stacks.items()
    }
