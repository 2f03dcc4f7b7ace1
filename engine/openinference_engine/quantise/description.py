"""What lies beside the weights of a folder: config.json, the tokenizer, the chat template.

From safetensors these files are kept as they are; from GGUF they are written from its metadata.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from openinference_engine.config import ModelConfig
from openinference_engine.quantise.scheme import Scheme
from openinference_engine.tokenizer.tokenizer import Tokenizer
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.config_file import CLASS_NAMES


def describe(
    source: Path, checkpoint: Checkpoint, tokenizer: Tokenizer, scheme: Scheme, folder: Path
) -> None:
    """Writes everything but the weights into `folder`."""
    if source.is_dir():
        config = json.loads((source / "config.json").read_text())
        for path in sorted([*source.glob("*.json"), *source.glob("*.jinja")]):
            if not path.name.endswith(".index.json"):
                shutil.copyfile(path, folder / path.name)
    else:
        config = _config_of(checkpoint.config, tokenizer)
        _write_tokenizer(tokenizer, folder)
    config["quantization_config"] = _method(scheme)
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _method(scheme: Scheme) -> dict[str, Any]:
    """How the codes are to be read, in the words of compressed-tensors."""
    weights = {
        "num_bits": scheme.bits,
        "type": scheme.kind,
        "symmetric": scheme.is_symmetric,
        "strategy": "channel" if scheme.group_size is None else "group",
        "group_size": scheme.group_size,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if scheme.kind == "int" else "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head", r"re:.*\.gate$"],
    }


def _config_of(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json as transformers writes it."""
    values: dict[str, Any] = {
        "architectures": [CLASS_NAMES[architecture_of(config)]],
        "model_type": _MODEL_TYPES.get(architecture_of(config), architecture_of(config)),
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
        "tie_word_embeddings": config.ties_embeddings,
        "eos_token_id": sorted(tokenizer.end_token_ids),
        "torch_dtype": "float32",  # of what is not quantised, as the file expands
    }
    if config.windows:
        values["sliding_window"] = config.windows[0]
    if config.experts is not None:
        values |= {
            "num_experts": config.experts.count,
            "num_local_experts": config.experts.count,
            "num_experts_per_tok": config.experts.per_token,
            "moe_intermediate_size": config.experts.intermediate_size,
            "norm_topk_prob": config.experts.normalises_shares,
        }
    return values


_MODEL_TYPES = {"qwen3moe": "qwen3_moe"}


def architecture_of(config: ModelConfig) -> str:
    """By the name of its class: GGUF files call Mixtral a llama with experts."""
    has_experts = config.experts is not None
    return "mixtral" if has_experts and config.architecture == "llama" else config.architecture


def _write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if tokenizer.template is not None:
        settings |= tokenizer.template.special_tokens
        (folder / "chat_template.jinja").write_text(tokenizer.template.source)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    ends = {"eos_token_id": sorted(tokenizer.end_token_ids)}
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=2))
