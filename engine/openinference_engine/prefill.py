"""Prompts as a queue of the kernels for many tokens (csrc/gpu/prompt_gemm.cuh, csrc/hopper).

The same ops as in `decoder`, with as many rows as a step brings, and attention over whole chunks:
rows of one sequence lie next to one another and share the keys that they read. Whoever draws takes
the rows it needs of what `queue` returns.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.chunks import Chunks, Parts, chunks_of
from openinference_engine.coded_kernels import CodedKernels
from openinference_engine.config import ModelConfig
from openinference_engine.cuda_kv_cache import KVCache, NewHeads, new_head_bytes
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.mixture import PromptMixture
from openinference_engine.ops.cuda_reference import SQUARE_COLUMNS
from openinference_engine.packings import UNIT_ELEMENTS
from openinference_engine.prompt_attention import PromptAttention

State = tuple[Tensor, Tensor, Tensor]  # hidden, x and sum_squares (csrc/ops.h)
_SHARED_ROWS = 1024  # of a step, from which on products unpack weights once (docs/log.md)
_MOST_ROOM_BYTES = 1 << 28  # of what cuda_backend and the operator leave for the steps
COUNT_BYTES = 4 << 14  # kMostCounts of csrc/gpu/prompt_shares.cuh


def room_for(weights: LlamaWeights, max_rows: int) -> Tensor | None:
    """Where products of prompts unpack the matrices of a layer (csrc/gpu/prompt_shares.cuh).

    As much as the largest needs, or what the kernels use for a part of it after another; None where
    no step has enough rows, and for bfloat16.
    """
    layer = weights.layers[0]
    if max_rows < _SHARED_ROWS or layer.qkv.dtype == torch.bfloat16:
        return None
    matrices = layer.qkv, layer.output, layer.gate_up, layer.down
    units = (m.shape[:2] for m in matrices if m.ndim == 3)  # no experts
    elements = max(-(-tiles // 8) * 8 * groups for tiles, groups in units) * UNIT_ELEMENTS
    num_bytes = min(COUNT_BYTES + 2 * elements, _MOST_ROOM_BYTES)
    return layer.qkv.new_zeros(num_bytes, dtype=torch.uint8)


def row_bytes(config: ModelConfig, is_coded: bool) -> int:
    """What a `Prefill` takes for a row of a step; experts have their rows in turns (`mixture`).

    is_coded: the cache holds codes.
    """
    states = config.hidden_size * (4 + 2) + config.hidden_size // SQUARE_COLUMNS * 4
    heads = 2 * 2 * config.num_heads * config.head_dim
    return states + heads + 2 * config.intermediate_size + new_head_bytes(config, is_coded)


class Prefill:
    """Buffers of `max_rows` rows on the device of the weights, allocated once."""

    def __init__(
        self,
        kernels: ModuleType,
        weights: LlamaWeights,
        config: ModelConfig,
        cache: KVCache,
        attention: PromptAttention,
        max_rows: int,
    ) -> None:
        self.max_rows = max_rows
        self._attention = attention
        self._kernels, self._weights, self._config, self._cache = kernels, weights, config, cache
        self._norms_after = weights.norms_after
        device = weights.embedding.device

        def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
            return torch.empty(max_rows, *shape, dtype=dtype, device=device)

        self._hidden = empty(config.hidden_size, dtype=torch.float32)
        self._x = empty(config.hidden_size)
        self._sum_squares = empty(config.hidden_size // SQUARE_COLUMNS, dtype=torch.float32)
        self._query = empty(config.num_heads, config.head_dim)
        self._attended = empty(config.num_heads, config.head_dim)
        self._activations = empty(config.intermediate_size)
        self._new_heads = NewHeads(config, cache, max_rows)
        self._mixture: PromptMixture | None = None
        if config.experts is not None:
            self._mixture = PromptMixture(config.hidden_size, config.experts, max_rows, device)
        self._room = None if isinstance(kernels, CodedKernels) else room_for(weights, max_rows)

    def chunks_of(self, parts: Parts) -> Chunks:
        """As `queue` takes them."""
        return chunks_of(parts, self._hidden.device, self._attention.room, self._attention.windows)

    def queue_parts(self, parts: Parts, stream: Any) -> tuple[Tensor, Tensor]:
        """`queue` of what `chunks_of` makes of them."""
        return self.queue(self.chunks_of(parts), stream)

    def queue(self, chunks: Chunks, stream: Any) -> tuple[Tensor, Tensor]:
        """Appends the rows' keys and values to the cache; returns the last x and sum_squares.

        Both are views of (R, …), valid until the next call.
        """
        rows = len(chunks.tokens)
        if self._room is not None and rows >= _SHARED_ROWS:
            stream = stream.with_room(self._room)
        state = self._hidden[:rows], self._x[:rows], self._sum_squares[:rows]
        self._enter(chunks, state, stream)
        for layer in range(self._config.num_layers):
            self._queue_layer(layer, chunks, state, stream)
        return state[1], state[2]

    def _enter(self, chunks: Chunks, state: State, stream: Any) -> None:
        weights = self._weights
        first_norm = weights.layers[0].attention_norm
        self._kernels.embed(chunks.tokens, weights.embedding, first_norm, *state, stream)

    def _queue_layer(self, index: int, chunks: Chunks, state: State, stream: Any) -> None:
        rows, kernels, layer = len(chunks.tokens), self._kernels, self._weights.layers[index]
        normed = *state[1:], self._config.rms_norm_epsilon
        cache = self._cache.layer(index)
        query, attended = self._query[:rows], self._attended[:rows]
        rotary, places = self._weights.rotary, (chunks.positions, chunks.row_pages)
        self._new_heads.queue(kernels, layer, normed, rotary, places, query, cache, stream)
        self._attention.queue(index, chunks, query, attended, stream)
        kernels.project_residual(attended.flatten(1), layer.output, layer.mlp_norm, *state, stream)
        norm_after, epsilon = self._norms_after[index], self._config.rms_norm_epsilon
        if self._mixture is not None and layer.router is not None:
            self._mixture.queue(
                kernels, layer, norm_after, chunks.positions, state, epsilon, stream
            )
            return
        activations = self._activations[:rows]
        kernels.project_gate_up(*normed, layer.gate_up, activations, stream)
        kernels.project_residual(activations, layer.down, norm_after, *state, stream)
