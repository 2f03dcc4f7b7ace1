"""The cache tensors of one layer as the CUDA kernels read them (csrc/cuda/cache_formats.cuh).

A page is 16 positions of one key/value head. bfloat16: (B · 16, K, D), the heads of a position
side by side. Codes: (B, K, bytes of a page): the rows of a page, then its scales, then its minima:
one head of a block is one run of memory. The dtype tells the format.

Letters: B blocks, K key/value heads, D elements of a head, E bytes of a coded vector, N numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.kv_formats import BFLOAT16, FP8, INT4, INT8, VectorFormat
from openinference_engine.ops import kv_codes

PAGE_TOKENS = 16

_DTYPES = {
    BFLOAT16.keys: torch.bfloat16,
    FP8: torch.float8_e4m3fn,
    INT8: torch.int8,
    INT4: torch.uint8,  # two codes each
}
_FORMATS = {dtype: vector_format for vector_format, dtype in _DTYPES.items()}


def empty_layers(
    vector_format: VectorFormat,
    num_layers: int,
    num_blocks: int,
    kv_heads: int,
    head_dim: int,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """The keys, or the values, of all layers, one allocation."""
    shape = (num_layers, num_blocks * PAGE_TOKENS, kv_heads, head_dim)
    if vector_format.is_coded:
        page_bytes = PAGE_TOKENS * vector_format.vector_bytes(head_dim)
        shape = (num_layers, num_blocks, kv_heads, page_bytes)
    return torch.empty(shape, dtype=_DTYPES[vector_format], device=device).unbind()


def vectors_of(cache: Tensor, head_dim: int) -> Tensor:
    """(B · 16, K, D) float32: what a layer's keys or values mean."""
    vector_format = _FORMATS[cache.dtype]
    if not vector_format.is_coded:
        return cache.float()
    codes, numbers = _parts(cache, vector_format, head_dim)
    vectors = kv_codes.decode(codes, numbers.transpose(2, 3), vector_format)
    return vectors.transpose(1, 2).flatten(0, 1)


def append(cache: Tensor, slot: int | Tensor, vectors: Tensor) -> None:
    """Codes of (K, D) vectors, into place `slot` % 16 of block `slot` // 16.

    Of several slots at once: (S,) and (S, K, D).
    """
    vector_format = _FORMATS[cache.dtype]
    codes, numbers = _parts(cache, vector_format, vectors.shape[-1])
    block, place = slot // PAGE_TOKENS, slot % PAGE_TOKENS
    codes[block, :, place], numbers[block, :, :, place] = kv_codes.encode(
        vectors.float(), vector_format
    )


def _parts(cache: Tensor, vector_format: VectorFormat, head_dim: int) -> tuple[Tensor, Tensor]:
    """Views of a coded cache: codes (B, K, 16, E) uint8, numbers (B, K, N, 16) float16."""
    code_bytes = vector_format.code_bytes(head_dim)
    pages, heads = cache.view(torch.uint8), cache.shape[:2]
    codes = pages[..., : PAGE_TOKENS * code_bytes]
    numbers = pages[..., PAGE_TOKENS * code_bytes :].view(torch.float16)
    return (
        codes.view(*heads, PAGE_TOKENS, code_bytes),
        numbers.view(*heads, vector_format.num_numbers, PAGE_TOKENS),
    )
