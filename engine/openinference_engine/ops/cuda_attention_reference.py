"""What each kernel over keys and values in pages computes, in plain torch; as cuda_reference.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openinference_engine.ops import cuda_cache
from openinference_engine.ops.cuda_cache import PAGE_TOKENS


def append_codes(
    keys: Tensor,
    values: Tensor,
    positions: Tensor,
    block_table: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    stream: Any = None,
) -> None:
    for token, position in enumerate(positions.tolist()):
        if position >= 0:
            slot = slot_of(block_table[token], position)
            cuda_cache.append(key_cache, slot, keys[token])
            cuda_cache.append(value_cache, slot, values[token])


def expand_pages(
    key_cache: Tensor,
    value_cache: Tensor,
    blocks: Tensor,
    keys: Tensor,
    values: Tensor,
    stream: Any = None,
) -> None:
    slots = slots_of(blocks)
    for cache, out in ((key_cache, keys), (value_cache, values)):
        out[: len(slots)] = cuda_cache.vectors_of(cache, out.shape[2])[slots]


def attend(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    positions: Tensor,
    block_table: Tensor,
    scale: float,
    window: int,
    splits: int,
    warps: int,
    workspace: Tensor,
    counters: Tensor,
    out: Tensor,
    stream: Any = None,
) -> None:
    group, head_dim = query.shape[1] // key_cache.shape[1], query.shape[2]
    caches = [cuda_cache.vectors_of(cache, head_dim) for cache in (key_cache, value_cache)]
    for token, position in enumerate(positions.tolist()):
        if position < 0:
            out[token] = 0
            continue
        slots = slots_of(block_table[token])[max(position + 1 - window, 0) : position + 1]
        # (kv_heads, positions seen, head_dim)
        keys, values = (cache[slots].transpose(0, 1) for cache in caches)
        queries = query[token].float().reshape(-1, group, head_dim)
        weights = torch.softmax(queries @ keys.transpose(1, 2) * scale, dim=-1)
        out[token] = (weights @ values).flatten(0, 1)


def attend_prefill(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    starts: Tensor,
    lengths: Tensor,
    block_table: Tensor,
    max_rows: int,
    scale: float,
    window: int,
    out: Tensor,
    stream: Any = None,
) -> None:
    group, head_dim = query.shape[1] // key_cache.shape[1], query.shape[2]
    caches = [cuda_cache.vectors_of(cache, head_dim) for cache in (key_cache, value_cache)]
    bounds = starts.tolist()
    for index, length in enumerate(lengths.tolist()):
        rows = slice(bounds[index], bounds[index + 1])
        slots = slots_of(block_table[index])[:length]
        keys, values = (
            cache[slots].transpose(0, 1).repeat_interleave(group, dim=0) for cache in caches
        )  # (query heads, length, head_dim)
        scores = query[rows].transpose(0, 1).float() @ keys.transpose(1, 2) * scale
        key_positions = torch.arange(length, device=query.device)
        positions = key_positions[length - scores.shape[1] :, None]
        is_seen = (key_positions <= positions) & (key_positions > positions - window)
        weights = torch.softmax(scores.masked_fill(~is_seen, -torch.inf), dim=-1)
        out[rows] = (weights @ values).transpose(0, 1)


def slots_of(pages: Tensor) -> Tensor:
    """pages: (P,) of one sequence → (P × 16,) int64, the cache slots of its positions."""
    places = torch.arange(PAGE_TOKENS, device=pages.device)
    return (pages.long()[:, None] * PAGE_TOKENS + places).flatten()


def slot_of(pages: Tensor, position: int) -> int:
    return int(pages[position // PAGE_TOKENS]) * PAGE_TOKENS + position % PAGE_TOKENS
