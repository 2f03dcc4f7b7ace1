"""What each decode kernel computes, in plain torch: the oracle of csrc/cuda.

Names and arguments are those of csrc/ops.h, so a test can be given either. Outputs are written in
place. Nothing here is fast; products run in float32 over the bf16 inputs that the kernels read, so
the two differ by the order of sums and one rounding of each bf16 output.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from openinference_engine import coded_groups, coded_rows, summed_rows, tiles
from openinference_engine.ops.cuda_attention_reference import append_codes as append_codes
from openinference_engine.ops.cuda_attention_reference import attend as attend
from openinference_engine.ops.cuda_attention_reference import attend_prefill as attend_prefill
from openinference_engine.ops.cuda_attention_reference import expand_pages as expand_pages
from openinference_engine.ops.cuda_attention_reference import slot_of
from openinference_engine.ops.cuda_attention_reference import slots_of as slots_of
from openinference_engine.ops.reference import silu_mul
from openinference_engine.packings import packing_of

SQUARE_COLUMNS = 16


def embed(
    tokens: Tensor,
    table: Tensor,
    norm_weight: Tensor,
    hidden: Tensor,
    x: Tensor,
    sum_squares: Tensor,
    stream: Any = None,
) -> None:
    is_known = (tokens >= 0) & (tokens < len(table))
    rows = table[tokens.clamp(0, len(table) - 1).long()].float()
    hidden.copy_(torch.where(is_known[:, None], rows, 0.0))
    write_norm_inputs(hidden, norm_weight, x, sum_squares)


def code_rows(
    x: Tensor, sum_squares: Tensor, epsilon: float, out: Tensor, stream: Any = None
) -> None:
    _kind_of(out, x.shape[1]).code(x, out, _factors(x, sum_squares, epsilon))


def code_groups(
    x: Tensor, sum_squares: Tensor, epsilon: float, out: Tensor, stream: Any = None
) -> None:
    coded_groups.code(x, out, _factors(x, sum_squares, epsilon))


def project_qkv(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    rotary: Tensor,
    positions: Tensor,
    block_table: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    stream: Any = None,
) -> None:
    tokens, query_heads, head_dim = query.shape
    kv_heads = key_cache.shape[1]
    num_heads = query_heads + 2 * kv_heads
    matrix = dense(weights, tiles.qkv_order(num_heads * head_dim, head_dim))
    sums = project_normed(x, sum_squares, epsilon, matrix)
    heads = sums.view(tokens, num_heads, head_dim)
    q, k, v = torch.split(heads, [query_heads, kv_heads, kv_heads], dim=1)
    _append(q, k, v, rotary, positions, block_table, query, key_cache, value_cache)


def project_normed_qkv(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    norms: Tensor,
    sums: Tensor,
    rotary: Tensor,
    positions: Tensor,
    block_table: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    stream: Any = None,
) -> None:
    tokens, query_heads, head_dim = query.shape
    kv_heads = key_cache.shape[1]
    num_heads = query_heads + 2 * kv_heads
    matrix = dense(weights, tiles.plain_order(num_heads * head_dim))
    heads = project_normed(x, sum_squares, epsilon, matrix).view(tokens, num_heads, head_dim)
    q, k, v = torch.split(heads, [query_heads, kv_heads, kv_heads], dim=1)
    q, k = (
        functional.rms_norm(part, (head_dim,), norm.float(), epsilon)
        for part, norm in zip((q, k), norms, strict=True)
    )
    _append(q, k, v, rotary, positions, block_table, query, key_cache, value_cache)


def project_residual(
    input: Tensor,
    weights: Tensor,
    norm_weight: Tensor,
    hidden: Tensor,
    x: Tensor,
    sum_squares: Tensor,
    stream: Any = None,
) -> None:
    matrix = dense(weights, tiles.plain_order(hidden.shape[1]))
    hidden += _rows_of(input, len(hidden), matrix.shape[1]) @ matrix.T
    write_norm_inputs(hidden, norm_weight, x, sum_squares)


def project_gate_up(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    out: Tensor,
    stream: Any = None,
) -> None:
    matrix = dense(weights, tiles.gate_up_order(2 * out.shape[1]))
    out.copy_(silu_mul(project_normed(x, sum_squares, epsilon, matrix)))


def project(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    out: Tensor,
    stream: Any = None,
) -> None:
    rows = -(-out.shape[1] // tiles.TILE_ROWS) * tiles.TILE_ROWS
    matrix = dense(weights, tiles.plain_order(rows))
    out.copy_(project_normed(x, sum_squares, epsilon, matrix)[:, : out.shape[1]])


def choose_token(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    logits: Tensor,
    tokens: Tensor,
    positions: Tensor,
    best: Tensor,
    counter: Tensor,
    stream: Any = None,
) -> None:
    project(x, sum_squares, epsilon, weights, logits)
    is_running = (positions >= 0) & ~logits.isnan().all(dim=-1)
    chosen = logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argmax(dim=-1)
    tokens.copy_(torch.where(is_running, chosen, -1))
    positions.copy_(torch.where(is_running, positions + 1, -1))


def write_norm_inputs(hidden: Tensor, norm_weight: Tensor, x: Tensor, sum_squares: Tensor) -> None:
    x.copy_(hidden * norm_weight.float())
    sum_squares.copy_(hidden.square().view(*sum_squares.shape, SQUARE_COLUMNS).sum(-1))


def _append(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    rotary: Tensor,
    positions: Tensor,
    block_table: Tensor,
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
) -> None:
    """(T, heads, D) of each: rotated where they are to be, into the query and the caches."""
    for token, position in enumerate(positions.tolist()):
        if position < 0:
            continue
        query[token] = _rotate(queries[token], rotary[position])
        place = slot_of(block_table[token], position) if block_table.shape[1] else token
        key_cache[place] = _rotate(keys[token], rotary[position])
        value_cache[place] = values[token]


def dense(weights: Tensor, row_order: Tensor) -> Tensor:
    """(outputs, inputs) float32 of a bf16 matrix, or of units packed in `row_order`."""
    if weights.is_floating_point():
        return weights.float()
    packing = packing_of(weights)
    return packing.dequantise(*packing.unpack(weights, row_order.to(weights.device)))


def project_normed(x: Tensor, sum_squares: Tensor, epsilon: float, matrix: Tensor) -> Tensor:
    rows = _rows_of(x, len(sum_squares), matrix.shape[1])
    if x.dim() == 3:  # codes are normed already
        return rows @ matrix.T
    return _norms(sum_squares, epsilon, x.shape[1]) * (rows @ matrix.T)


def _rows_of(x: Tensor, rows: int, columns: int) -> Tensor:
    """The (rows, columns) float32 that x is, or that its codes stand for."""
    decoded: Tensor = x.float() if x.dim() == 2 else _kind_of(x, columns).decode(x, rows)
    return decoded


def _kind_of(coded: Tensor, columns: int) -> ModuleType:
    """The module that says how such a tensor of codes is made up."""
    kinds = coded_groups, coded_rows, summed_rows
    return next(kind for kind in kinds if kind.shape_of(coded.shape[1], columns) == coded.shape)


def _factors(x: Tensor, sum_squares: Tensor, epsilon: float) -> Tensor | float:
    """Of the scales of a row's codes; sum_squares without columns: it is not normed."""
    return _norms(sum_squares, epsilon, x.shape[1]) if sum_squares.shape[1] else 1.0


def _norms(sum_squares: Tensor, epsilon: float, columns: int) -> Tensor:
    return torch.rsqrt(sum_squares.sum(-1, keepdim=True) / columns + epsilon)


def _rotate(heads: Tensor, rotary: Tensor) -> Tensor:
    cos, sin = rotary.unbind(-1)
    lower, upper = heads.chunk(2, dim=-1)
    return torch.cat([lower * cos - upper * sin, upper * cos + lower * sin], dim=-1)
