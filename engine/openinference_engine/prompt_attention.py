"""Attention of a step with prompts: over the cache or, of codes, over a copy in bf16.

The tensor cores would wait for whoever decodes a page once for every 128 queries. So `expand_pages`
decodes what prompts will read of a layer, within its window, into a copy that all layers share. It
has room for the longest sequence; what a step reads beyond that is read after it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import Tensor

from openinference_engine.chunks import Chunks, Reading
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.row_attention import RowAttention


class PromptAttention:
    """The copy, of `num_blocks` blocks; there is none if the cache holds no codes."""

    def __init__(
        self, kernels: ModuleType, cache: KVCache, rows: RowAttention, num_blocks: int
    ) -> None:
        self._kernels, self._cache, self._rows = kernels, cache, rows
        self.windows = rows.windows
        self._copy = cache.uncoded(num_blocks * PAGE_TOKENS)
        self.room = None if self._copy is None else num_blocks

    def queue(self, layer: int, chunks: Chunks, query: Tensor, out: Tensor, stream: Any) -> None:
        """query, out: (R, heads, D) bf16."""
        self._attend_rows(layer, chunks, query, out, stream)
        for reading in chunks.readings[self.windows[layer]]:
            self._attend_chunks(layer, reading, query, out, stream)

    def _attend_rows(
        self, layer: int, chunks: Chunks, query: Tensor, out: Tensor, stream: Any
    ) -> None:
        """Rows that decode share no keys, so nothing is gained by a copy of these."""
        for first in range(0, chunks.num_single, MAX_ROWS):
            part = slice(first, min(first + MAX_ROWS, chunks.num_single))
            places = chunks.positions[part], chunks.row_pages[part]
            vectors = self._cache.layer(layer)
            self._rows.queue(layer, query[part], vectors, places, out[part], stream)

    def _attend_chunks(
        self, layer: int, reading: Reading, query: Tensor, out: Tensor, stream: Any
    ) -> None:
        vectors = self._cache.layer(layer)
        if self._copy is not None and reading.blocks is not None:
            self._kernels.expand_pages(*vectors, reading.blocks, *self._copy, stream)
            vectors = self._copy
        self._kernels.attend_prefill(
            query,
            *vectors,
            reading.starts,
            reading.lengths,
            reading.pages,
            reading.longest,
            query.shape[-1] ** -0.5,
            self.windows[layer],
            out,
            stream,
        )
