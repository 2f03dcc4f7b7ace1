"""Every operation of the engine in plain torch: the oracle of the CPU kernels, and their stand-in.

Letters: T tokens of the step, H query heads, K key/value heads, D head dimension; those of a cache
are in kv_cache.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine.ops.kv_cache import LayerCache, Vectors
from openinference_engine.ops.kv_codes import decode, encode
from openinference_engine.ops.plan import NO_WINDOW, AttentionPlan
from openinference_engine.weights.quantisation import FORMATS_BY_NAME

Weight = Tensor  # (outputs, inputs)


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """gates, ups: (inner, hidden) of each expert; downs: (hidden, inner)."""

    gates: list[Weight]
    ups: list[Weight]
    downs: list[Weight]


KERNEL_PATH = "torch-reference"


def pack(format_name: str, stored: list[npt.NDArray[np.uint8]], inputs: int) -> Weight:
    """Stacks matrices of one format of `weights.quantisation`, each (outputs, bytes of a row)."""
    rows = np.concatenate(stored)
    values: npt.NDArray[Any] = FORMATS_BY_NAME[format_name].unpack(rows.reshape(-1))
    if values.dtype == np.uint16:  # the bits of bfloat16
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return torch.from_numpy(values.reshape(-1, inputs).astype(np.float32))


def use_threads(count: int) -> None:
    """At most so many threads compute; to be said before the first operation."""
    torch.set_num_threads(count)


def embedding(token_ids: Tensor, weight: Weight) -> Tensor:
    """token_ids: (T,) int64 → rows of weight: (T, hidden)."""
    return weight[token_ids]


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """x: (T, in), bias: (out,) → (T, out)."""
    return torch.nn.functional.linear(x, weight, bias)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x: (T, n) scaled to unit root mean square over n in float32, times weight: (n,)."""
    wide = x.float()
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(x.dtype)


def silu_mul(gate_up: Tensor) -> Tensor:
    """gate_up: (T, 2n), the gate first → silu(gate) × up: (T, n)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Rotary embedding of x: (T, heads, D), in place; cosine, sine: (T, D / 2) float32.

    Element i turns together with element i + D / 2 (arXiv:2104.09864, in the half-split order).
    """
    first, second = x.float().chunk(2, dim=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    x.copy_(torch.cat(turned, dim=-1))


def append_kv(key: Tensor, value: Tensor, cache: LayerCache, slots: Tensor) -> None:
    """Writes key, value: (T, K, D) into their slots of the cache, in place.

    slots: (T,) int64, block × P + place in the block.
    """
    block, place = slots // cache.block_size, slots % cache.block_size
    keys, values = cache.keys, cache.values
    codes, numbers = encode(key, keys.format)
    keys.codes[block, :, :, place] = codes.view(*codes.shape[:2], *keys.codes.shape[2::2])
    keys.numbers[block, :, :, place] = numbers
    values.codes[block, :, place], values.numbers[block, :, :, place] = encode(value, values.format)


def route(logits: Tensor, chosen: int, normalise: bool) -> tuple[Tensor, Tensor]:
    """logits: (T, experts) → the likeliest experts, (T, chosen) int64, and their shares.

    The first of equals comes first. Shares are the softmax over all experts or, if `normalise`,
    over the chosen (arXiv:2401.04088).
    """
    best, ids = (part[:, :chosen] for part in logits.sort(descending=True, stable=True))
    if normalise:
        return ids, best.softmax(-1)
    return ids, logits.softmax(-1).gather(1, ids)


def experts(x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
    """x: (T, hidden); ids, shares: (T, chosen) → (T, hidden): the sum over each token's experts, in
    the order of their numbers, of share · down(silu(gate) · up).
    """
    output = torch.zeros_like(x)
    for number in sorted(set(ids.flatten().tolist())):
        rows, places = (ids == number).nonzero(as_tuple=True)
        gate, up = linear(x[rows], weights.gates[number]), linear(x[rows], weights.ups[number])
        result = linear(silu_mul(torch.cat([gate, up], dim=-1)), weights.downs[number])
        output[rows] += shares[rows, places, None] * result
    return output


def paged_attention(
    query: Tensor, cache: LayerCache, plan: AttentionPlan, window: int = NO_WINDOW
) -> Tensor:
    """Causal attention of query: (T, H, D) over the cached positions of each sequence → (T, H, D).

    Each token sees the last `window` positions of its own sequence up to itself, whose key and
    value are already in the cache (layout: PagedAttention, arXiv:2309.06180). Query head h reads
    key head h // (H / K).
    """
    output = torch.empty_like(query)
    bounds = plan.starts.tolist()
    for index, length in enumerate(plan.lengths.tolist()):
        rows = slice(bounds[index], bounds[index + 1])
        blocks = plan.blocks[index, : -(-length // cache.block_size)].long()
        keys = cache.keys.codes[blocks].permute(1, 0, 3, 2, 4).flatten(3)  # (K, blocks, P, E)
        values = cache.values.codes[blocks].transpose(0, 1)
        output[rows] = _attend(
            query[rows],
            _decode(keys, cache.keys, blocks)[:, :length],
            _decode(values, cache.values, blocks)[:, :length],
            window,
        )
    return output


def _decode(codes: Tensor, vectors: Vectors, blocks: Tensor) -> Tensor:
    """codes: (K, blocks, P, E) → (K, blocks × P, D)."""
    numbers = vectors.numbers[blocks].permute(1, 0, 3, 2)  # (K, blocks, P, N)
    return decode(codes, numbers, vectors.format).flatten(1, 2)


def _attend(query: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """query: (N, H, D), the last N of the L positions of keys, values: (K, L, D) → (N, H, D)."""
    num_new, length = query.shape[0], keys.shape[1]
    positions = torch.arange(length, device=query.device)
    distances = positions[length - num_new :, None] - positions  # (N, L)
    mask = (distances >= 0) & (distances < window)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys[None], values[None], attn_mask=mask, enable_gqa=True
    )
    return attended[0].transpose(0, 1)
