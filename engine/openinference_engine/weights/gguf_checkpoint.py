"""A GGUF file as a checkpoint: names and layouts turned into those of the Llama family."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from openinference_engine.config import ExpertsConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import ALL, StoredMatrix, StoredTensor
from openinference_engine.weights.gguf import GGUFFile
from openinference_engine.weights.quantisation import FORMATS, FORMATS_BY_NAME

FINGERPRINT_BYTES_PER_TENSOR = 64 << 10

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "model.rotary_factors",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_gate_inp": "mlp.gate",
}
_STACKED_NAMES = {
    "ffn_gate_exps": "gate_proj",
    "ffn_up_exps": "up_proj",
    "ffn_down_exps": "down_proj",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


class GGUFCheckpoint:
    """Raises StartError if the file is damaged or lacks what its architecture needs."""

    def __init__(self, path: Path) -> None:
        self.file = GGUFFile(path)
        self._places = {
            standard_name: (name, index)
            for name, info in self.file.tensors.items()
            for index, standard_name in enumerate(_standard_names(name, info.shape))
        }

    @cached_property
    def config(self) -> ModelConfig:
        hidden_size, num_heads = self._number("embedding_length"), self._number(_HEADS)
        return ModelConfig(
            architecture=self._architecture,
            vocab_size=self._vocab_size(),
            hidden_size=hidden_size,
            intermediate_size=self._number("feed_forward_length"),
            num_layers=self._number("block_count"),
            num_heads=num_heads,
            num_kv_heads=self._number("attention.head_count_kv", num_heads),
            head_dim=self._number("attention.key_length", hidden_size // num_heads),
            max_positions=self._number("context_length"),
            rms_norm_epsilon=self._real("attention.layer_norm_rms_epsilon", 1e-5),
            rope_theta=self._real("rope.freq_base", 10_000.0),
            ties_embeddings="output.weight" not in self.file.tensors,
            experts=self._experts(),
            windows=self._windows(),
        )

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.file.header)
        for name in sorted(self.file.tensors):
            digest.update(self.file.bytes_of(name)[:FINGERPRINT_BYTES_PER_TENSOR].data)
        return digest.hexdigest()

    def names(self) -> frozenset[str]:
        return frozenset(self._places)

    def tensors(self) -> Iterator[StoredTensor]:
        for stored_name, info in self.file.tensors.items():
            name, *_ = _standard_names(stored_name, info.shape)
            size = math.prod(info.shape)
            yield StoredTensor(name, FORMATS[info.type_id].name, size, info.num_bytes)

    def array(self, name: str, rows: slice = ALL, columns: slice = ALL) -> npt.NDArray[Any]:
        matrix = self.stored(name, rows)
        values = FORMATS_BY_NAME[matrix.format].unpack_rows(matrix.rows, columns)
        return values if len(matrix.shape) > 1 else values[:, 0]

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        stored_name, index = self._places[name]
        info = self.file.tensors[stored_name]
        stack, shape = _split_stack(stored_name, info.shape)
        stored = self.file.bytes_of(stored_name).reshape(stack, shape[0], -1)[index][rows]
        kind = FORMATS[info.type_id].name
        return StoredMatrix(kind, shape, self._in_order(stored, stored_name, shape[0]))

    def _in_order(
        self, rows: npt.NDArray[Any], stored_name: str, num_rows: int
    ) -> npt.NDArray[Any]:
        """Stored rows of whole heads, of `num_rows` in all, in the order of safetensors files."""
        heads = {"attn_q": self.config.num_heads, "attn_k": self.config.num_kv_heads}
        part = stored_name.rsplit(".", 2)[-2]
        if self._architecture != "llama" or part not in heads:
            return rows
        if num_rows % (2 * heads[part]):
            raise StartError(
                f"{self.file.path}: {stored_name} has {num_rows} rows for {heads[part]} heads; "
                "fetch it again"
            )
        return _halves_from_pairs(rows, num_rows // heads[part])

    def _vocab_size(self) -> int:
        info = self.file.tensors.get("token_embd.weight")
        if info is None:
            raise StartError(f"{self.file.path} lacks token_embd.weight; fetch it again")
        return info.shape[0]

    def _experts(self) -> ExpertsConfig | None:
        if not self._optional("expert_count", 0):
            return None
        return ExpertsConfig(
            self._number("expert_count"),
            self._number("expert_used_count"),
            self._number("expert_feed_forward_length", self._number("feed_forward_length")),
            normalises_shares=True,  # what every model in this container does
        )

    def _windows(self) -> tuple[int | None, ...]:
        if self._optional("attention.sliding_window", None) is None:
            return ()
        return (self._number("attention.sliding_window"),) * self._number("block_count")

    @property
    def _architecture(self) -> str:
        return str(self.file.metadata.get("general.architecture", "unknown"))

    def _number(self, key: str, default: int | None = None) -> int:
        value = self._optional(key, default)
        if isinstance(value, int) and value > 0:
            return value
        raise self._wrong(key, value, "a whole number above 0")

    def _real(self, key: str, default: float) -> float:
        value = self._optional(key, default)
        if isinstance(value, float) and math.isfinite(value):
            return value
        raise self._wrong(key, value, "a number")

    def _wrong(self, key: str, value: Any, wanted: str) -> StartError:
        found = "is missing" if value is None else f"is {value!r:.40}"
        return StartError(
            f"{self.file.path}: {self._architecture}.{key} {found}, where {wanted} belongs; "
            "convert it again"
        )

    def _optional(self, key: str, default: Any) -> Any:
        return self.file.metadata.get(f"{self._architecture}.{key}", default)


_HEADS = "attention.head_count"


def _standard_names(name: str, shape: tuple[int, ...]) -> list[str]:
    """What a stored tensor is called elsewhere: one name, or one for each matrix of a stack."""
    if match := _LAYER.fullmatch(name):
        layer, part, kind = match.groups()
        prefix = f"model.layers.{layer}"
        if part in _STACKED_NAMES:
            stack, _ = _split_stack(name, shape)
            experts = (f"{prefix}.mlp.experts.{number}" for number in range(stack))
            return [f"{expert}.{_STACKED_NAMES[part]}.{kind}" for expert in experts]
        return [f"{prefix}.{_LAYER_NAMES.get(part, part)}.{kind}"]
    part, _, kind = name.rpartition(".")
    return [f"{_NAMES.get(part, part)}.{kind}"]


def _split_stack(name: str, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """How many matrices of which shape a stored tensor holds."""
    is_stack = name.startswith("blk.") and name.split(".")[2] in _STACKED_NAMES
    return (shape[0], shape[1:]) if is_stack and len(shape) == 3 else (1, shape)


def _halves_from_pairs(rows: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Undoes the row order of GGUF's llama family.

    There the two rows that rotate together lie side by side; our rotary embedding, like the
    safetensors files, wants the first of all pairs, then the second.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
