"""config.json beside safetensors files: the names that transformers writes, turned into ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from openinference_engine.config import ExpertsConfig, ModelConfig, RopeScaling
from openinference_engine.errors import StartError

_File = TypeVar("_File", bound=msgspec.Struct)
_Count = Annotated[int, msgspec.Meta(ge=1)]
_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
}
_ACTIVATIONS = ("silu", "swish")  # two names of one; of the gate in each feed-forward block
CLASS_NAMES = {ours: theirs for theirs, ours in _ARCHITECTURES.items()}


class _Rope(msgspec.Struct, frozen=True):
    rope_type: str | None = None
    type: str = "default"  # the older name
    rope_theta: float | None = None
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: _Count = 8192


class _ConfigFile(msgspec.Struct, frozen=True):
    """What is read of the file, by its own names."""

    vocab_size: _Count
    hidden_size: _Count
    intermediate_size: _Count
    num_hidden_layers: _Count
    num_attention_heads: _Count
    max_position_embeddings: _Count
    rms_norm_eps: float
    architectures: list[str] = []
    hidden_act: str = "silu"
    num_key_value_heads: _Count | None = None
    head_dim: _Count | None = None
    rope_theta: float | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None  # the older name
    tie_word_embeddings: bool = False
    sliding_window: _Count | None = None
    use_sliding_window: bool = True
    max_window_layers: int = 0
    layer_types: list[str] | None = None
    num_experts: _Count | None = None
    num_local_experts: _Count | None = None
    num_experts_per_tok: _Count = 1
    moe_intermediate_size: _Count | None = None
    norm_topk_prob: bool | None = None

    @property
    def architecture(self) -> str:
        name = self.architectures[0] if self.architectures else "unknown"
        return _ARCHITECTURES.get(name, name)


def decode_config(path: Path, kind: type[_File]) -> _File:
    """The fields of `kind`. Raises StartError if the file is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise StartError(f"{path.parent} lacks {path.name}") from error
    except msgspec.ValidationError as error:
        raise StartError(f"{path}: {error}; fetch it again") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(f"{path} is not JSON: {error}") from error


def read_config(path: Path) -> ModelConfig:
    """Raises StartError naming the field if the file is missing, damaged or contradicts itself."""
    file = decode_config(path, _ConfigFile)
    if file.hidden_act not in _ACTIVATIONS:
        raise StartError(
            f"{path}: hidden_act {file.hidden_act!r} is unknown; known are "
            f"{', '.join(_ACTIVATIONS)}"
        )
    rope = file.rope_parameters or file.rope_scaling or _Rope()
    return ModelConfig(
        architecture=file.architecture,
        vocab_size=file.vocab_size,
        hidden_size=file.hidden_size,
        intermediate_size=file.intermediate_size,
        num_layers=file.num_hidden_layers,
        num_heads=file.num_attention_heads,
        num_kv_heads=file.num_key_value_heads or file.num_attention_heads,
        head_dim=file.head_dim or file.hidden_size // file.num_attention_heads,
        max_positions=file.max_position_embeddings,
        rms_norm_epsilon=file.rms_norm_eps,
        rope_theta=file.rope_theta or rope.rope_theta or 10_000.0,
        rope_scaling=_rope_scaling(rope, path),
        ties_embeddings=file.tie_word_embeddings,
        experts=_experts(file),
        windows=_windows(file),
    )


def _rope_scaling(rope: _Rope, path: Path) -> RopeScaling | None:
    match rope.rope_type or rope.type:
        case "default":
            return None
        case "linear":
            return RopeScaling("linear", rope.factor)
        case "llama3":
            return RopeScaling(
                "llama3",
                rope.factor,
                rope.low_freq_factor,
                rope.high_freq_factor,
                rope.original_max_position_embeddings,
            )
        case other:
            raise StartError(
                f"{path}: rope type {other!r} is unknown; known are default, linear, llama3"
            )


def _experts(file: _ConfigFile) -> ExpertsConfig | None:
    count = file.num_experts or file.num_local_experts
    if count is None:
        return None
    normalises = file.norm_topk_prob
    return ExpertsConfig(
        count,
        file.num_experts_per_tok,
        file.moe_intermediate_size or file.intermediate_size,
        file.architecture == "mixtral" if normalises is None else normalises,
    )


def _windows(file: _ConfigFile) -> tuple[int | None, ...]:
    """Which layers slide: the file names them, or says from which layer on."""
    if file.sliding_window is None or not file.use_sliding_window:
        return ()
    layers = range(file.num_hidden_layers)
    if file.layer_types is not None:
        slides = [kind == "sliding_attention" for kind in file.layer_types]
    elif file.architecture in ("mistral", "mixtral"):
        slides = [True for _ in layers]
    else:
        slides = [layer >= file.max_window_layers for layer in layers]
    return tuple(file.sliding_window if slide else None for slide in slides)
