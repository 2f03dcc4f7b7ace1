"""Every operation of the engine in plain torch: the oracle of all native kernels, and the CPU path.

Signatures are those of the kernels. Letters: T tokens of the step, S sequences of the step,
H query heads, K key/value heads, D head dimension, B blocks of the pool, P positions per block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """Which tokens of a step see which cache slots; the same for all layers of the step.

    slots: (T,) int64, where each token's key and value go: block × P + place in the block.
    context: for each sequence with several tokens, (first row, one past the last row, slots of all
        its positions); its last token is the last of those positions.
    single_rows: (R,) int64, rows of the sequences with exactly one token (decode).
    single_slots: (R, L) int64, their slots, padded to the longest with a slot of the same sequence
        (never an unwritten one: a masked NaN would still spoil the sum).
    single_mask: (R, 1, 1, L) bool, True where `single_slots` is a real position.
    """

    slots: Tensor
    context: tuple[tuple[int, int, Tensor], ...]
    single_rows: Tensor
    single_slots: Tensor
    single_mask: Tensor


def embedding(token_ids: Tensor, weight: Tensor) -> Tensor:
    """token_ids: (T,) → rows of weight: (T, hidden)."""
    return weight[token_ids]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: (T, in), weight: (out, in), bias: (out,) → (T, out)."""
    return torch.nn.functional.linear(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x: (..., n) scaled to unit root mean square over n in float32, times weight: (n,)."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(x.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up: (T, 2n), the gate first → silu(gate) × up: (T, n)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of x: (T, heads, D); cosine, sine: (T, D / 2) float32.

    Element i turns together with element i + D / 2 (arXiv:2104.09864, in the half-split order).
    """
    first, second = x.float().chunk(2, dim=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.cat(turned, dim=-1).to(x.dtype)


def append_kv(
    key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slots: Tensor
) -> None:
    """Writes key, value: (T, K, D) into their slots of the caches (B × P, K, D), in place."""
    key_cache.index_copy_(0, slots, key)
    value_cache.index_copy_(0, slots, value)


def paged_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, plan: AttentionPlan
) -> Tensor:
    """Causal attention of query: (T, H, D) over the cached positions of each sequence → (T, H, D).

    Each token sees its own sequence up to itself, whose key and value are already in the cache
    (layout: PagedAttention, arXiv:2309.06180). Query head h reads key head h // (H / K).
    """
    output = torch.empty_like(query)
    for start, end, slots in plan.context:
        output[start:end] = _attend_many(query[start:end], key_cache[slots], value_cache[slots])
    if plan.single_rows.numel():
        keys, values = key_cache[plan.single_slots], value_cache[plan.single_slots]
        output[plan.single_rows] = _attend_one(
            query[plan.single_rows], keys, values, plan.single_mask
        )
    return output


def _attend_many(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """query: (N, H, D), the last N of the L positions of keys, values: (L, K, D) → (N, H, D)."""
    num_new, length = query.shape[0], keys.shape[0]
    positions = torch.arange(length, device=query.device)
    mask = positions[None] <= positions[length - num_new :, None]  # (N, L)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        attn_mask=mask,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """query: (R, H, D), one token per sequence; keys, values: (R, L, K, D) → (R, H, D)."""
    num_rows, num_heads, head_dim = query.shape
    grouped = query.view(num_rows, keys.shape[2], -1, head_dim)  # (R, K, H / K, D)
    attended = torch.nn.functional.scaled_dot_product_attention(
        grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
    )
    return attended.reshape(num_rows, num_heads, head_dim)
