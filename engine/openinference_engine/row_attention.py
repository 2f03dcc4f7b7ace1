"""Attention of rows that have a sequence each: the grid of `attend`, and its scratch."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.ops.plan import windows_of

_MAX_SPLITS = 16  # blocks of attention for a sequence and a key head


class RowAttention:
    """windows: by layer, the positions that a row sees, its own included."""

    def __init__(
        self,
        kernels: ModuleType,
        config: ModelConfig,
        device: torch.device,
        multiprocessors: int,
        is_deterministic: bool = False,
    ) -> None:
        """`is_deterministic`: a row gets the same bits whichever rows are beside it."""
        self._kernels = kernels
        self.windows = windows_of(config)
        self._is_deterministic = is_deterministic
        self._kv_heads, self._scale = config.num_kv_heads, config.head_dim**-0.5
        self._multiprocessors = multiprocessors
        parts = MAX_ROWS * config.num_heads * _MAX_SPLITS * (config.head_dim + 2)
        self._workspace = torch.zeros(parts, device=device)
        self._counters = torch.zeros(MAX_ROWS * config.num_heads, dtype=torch.int32, device=device)

    def queue(
        self,
        layer: int,
        query: Tensor,
        cache: tuple[Tensor, Tensor],
        places: tuple[Tensor, Tensor],
        out: Tensor,
        stream: Any,
    ) -> None:
        """places: positions and pages of up to MAX_ROWS rows."""
        self._kernels.attend(
            query,
            *cache,
            *places,
            self._scale,
            self.windows[layer],
            *self._grid(len(query)),
            self._workspace,
            self._counters,
            out,
            stream,
        )

    def _grid(self, rows: int) -> tuple[int, int]:
        """Blocks for each sequence and key head, and warps of each; 16 fill a multiprocessor.

        As many blocks as there are multiprocessors, then smaller blocks as long as all fit at once.
        Where bits may not depend on the batch, always those of one row.
        """
        rows = 1 if self._is_deterministic else rows
        blocks = rows * self._kv_heads
        splits = min(max(self._multiprocessors // blocks, 1), _MAX_SPLITS)
        if blocks <= self._multiprocessors:
            return splits, 16
        return splits, 8 if blocks <= 2 * self._multiprocessors else 4
