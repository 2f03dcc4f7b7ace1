"""The cache tensors of one layer, laid out as csrc/cpu/cache.h says.

Letters: B blocks of P positions, K key/value heads, D elements of a head, E bytes of a coded
vector, N numbers beside it. Codes of four bits share a byte with those half a vector away, so that
no two tokens share one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openinference_engine.kv_formats import CODED_ELEMENTS, CacheFormat, VectorFormat

_KEY_BYTES = 4  # of a position, side by side
_CODED_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class Vectors:
    """All keys, or all values, of a layer.

    codes of keys: (B, K, D, P, 1) float32, or (B, K, E / 4, P, 4) uint8.
    codes of values: (B, K, P, D) float32, or (B, K, P, E) uint8.
    numbers: (B, K, N, P) float16: scales, then minima.
    """

    format: VectorFormat
    codes: Tensor
    numbers: Tensor


class LayerCache:
    """Untouched memory costs nothing: pages are not written before a block is first used.

    Raises ValueError for sizes that codes cannot have: blocks are of whole sixteens then, heads of
    whole eights.
    """

    def __init__(
        self,
        cache_format: CacheFormat,
        num_blocks: int,
        kv_heads: int,
        head_dim: int,
        block_size: int,
    ) -> None:
        if cache_format.is_coded and (head_dim % CODED_ELEMENTS or block_size % _CODED_POSITIONS):
            raise ValueError(
                f"blocks of {block_size} positions and heads of {head_dim} elements cannot be "
                f"coded; use multiples of {_CODED_POSITIONS} and {CODED_ELEMENTS}"
            )
        self.num_blocks, self.kv_heads = num_blocks, kv_heads
        self.head_dim, self.block_size = head_dim, block_size
        self.keys = self._empty(cache_format.keys, are_keys=True)
        self.values = self._empty(cache_format.values, are_keys=False)

    def _empty(self, vector_format: VectorFormat, are_keys: bool) -> Vectors:
        dtype, size, unit = torch.float32, self.head_dim, 1
        if vector_format.is_coded:
            dtype, size, unit = torch.uint8, vector_format.code_bytes(self.head_dim), _KEY_BYTES
        blocks = (self.num_blocks, self.kv_heads)
        vectors = (size // unit, self.block_size, unit) if are_keys else (self.block_size, size)
        numbers = (*blocks, vector_format.num_numbers, self.block_size)
        return Vectors(
            vector_format,
            torch.empty(*blocks, *vectors, dtype=dtype),
            torch.empty(numbers, dtype=torch.float16),
        )
