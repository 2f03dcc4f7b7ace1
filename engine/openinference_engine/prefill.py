"""Prompts as a queue of the kernels for many tokens (csrc/gpu/wide_gemm.cuh, csrc/hopper).

The same ops as in `decoder`, with as many rows as a step brings, and attention over whole chunks:
rows of one sequence lie next to one another and share the keys that they read. Whoever draws takes
the rows it needs of what `queue` returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.cuda_kv_cache import KVCache, NewHeads
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.ops.cuda_reference import SQUARE_COLUMNS

_NO_WINDOW = 1 << 30  # more positions than any sequence has


@dataclass(frozen=True, slots=True)
class Chunks:
    """R rows of S sequences, laid end to end; all int32 on the device.

    tokens, positions: (R,). starts: (S + 1,), the first row of each sequence, then R. lengths:
    (S,), positions each holds after this step. pages: (S, P). row_pages: (R, P), those of each
    row's sequence. longest: rows of the largest chunk.
    """

    tokens: Tensor
    positions: Tensor
    starts: Tensor
    lengths: Tensor
    pages: Tensor
    row_pages: Tensor
    longest: int


Parts = list[tuple[list[int], int, list[int]]]
State = tuple[Tensor, Tensor, Tensor]  # hidden, x and sum_squares (csrc/ops.h)


def send(values: Tensor, device: torch.device) -> Tensor:
    """A copy there, once what is queued before has ended; the host does not wait for that."""
    if device.type == "cuda":
        values = values.pin_memory()  # torch keeps such memory until the copy has passed
    return values.to(device, non_blocking=True)


def chunks_of(parts: Parts, device: torch.device) -> Chunks:
    """Of (token ids, position of the first, pages of the sequence) for each sequence."""
    counts = torch.tensor([len(token_ids) for token_ids, _, _ in parts], dtype=torch.int32)
    firsts = torch.tensor([first for _, first, _ in parts], dtype=torch.int32)
    width = max(len(pages) for _, _, pages in parts)
    rows_of_pages = [[*ids, *[0] * (width - len(ids))] for _, _, ids in parts]
    pages = send(torch.tensor(rows_of_pages, dtype=torch.int32), device)
    sequences = torch.repeat_interleave(torch.arange(len(parts)), counts)
    starts = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    positions = torch.arange(len(sequences), dtype=torch.int32) - starts[sequences]
    tokens = [token_id for token_ids, _, _ in parts for token_id in token_ids]
    return Chunks(
        tokens=send(torch.tensor(tokens, dtype=torch.int32), device),
        positions=send(positions + firsts[sequences], device),
        starts=send(starts, device),
        lengths=send(firsts + counts, device),
        pages=pages,
        row_pages=pages[send(sequences, device)],
        longest=int(counts.max()),
    )


class Prefill:
    """Buffers of `max_rows` rows on the device of the weights, allocated once.

    Not for a mixture of experts, whose prompts the decoder takes as rows.
    """

    def __init__(
        self,
        kernels: ModuleType,
        weights: LlamaWeights,
        config: ModelConfig,
        cache: KVCache,
        max_rows: int,
    ) -> None:
        self.max_rows = max_rows
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

    def queue_parts(self, parts: Parts, stream: Any) -> tuple[Tensor, Tensor]:
        """`queue` of what `chunks_of` takes."""
        return self.queue(chunks_of(parts, self._hidden.device), stream)

    def queue(self, chunks: Chunks, stream: Any) -> tuple[Tensor, Tensor]:
        """Appends the rows' keys and values to the cache; returns the last x and sum_squares.

        Both are views of (R, …), valid until the next call.
        """
        rows = len(chunks.tokens)
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
        activations = self._activations[:rows]
        rotary, places = self._weights.rotary, (chunks.positions, chunks.row_pages)
        self._new_heads.queue(kernels, layer, normed, rotary, places, query, cache, stream)
        kernels.attend_prefill(
            query,
            *cache,
            chunks.starts,
            chunks.lengths,
            chunks.pages,
            chunks.longest,
            self._config.head_dim**-0.5,
            _NO_WINDOW,
            attended,
            stream,
        )
        kernels.project_residual(attended.flatten(1), layer.output, layer.mlp_norm, *state, stream)
        kernels.project_gate_up(*normed, layer.gate_up, activations, stream)
        kernels.project_residual(activations, layer.down, self._norms_after[index], *state, stream)
