"""What each kernel of a mixture of experts computes, in plain torch; as cuda_reference.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openinference_engine import fp8, int8, tiles
from openinference_engine.ops.cuda_reference import dense, project_normed, write_norm_inputs
from openinference_engine.ops.reference import silu_mul
from openinference_engine.packings import packing_of


def route(
    logits: Tensor,
    positions: Tensor,
    normalises: bool,
    first_own: int,
    own: int,
    shares: Tensor,
    places: Tensor,
    sources: Tensor,
    visits: Tensor,
    stream: Any = None,
) -> None:
    ids = torch.empty_like(places)
    choose_experts(logits, positions, normalises, first_own, own, shares, ids)
    _order(ids, places, visits, places_of_visit(len(logits)))
    sources.zero_()
    is_own = places >= 0
    sources[places[is_own].long()] = is_own.nonzero()[:, 0].int()


def choose_experts(
    logits: Tensor,
    positions: Tensor,
    normalises: bool,
    first_own: int,
    own: int,
    shares: Tensor,
    ids: Tensor,
    stream: Any = None,
) -> None:
    chosen = shares.shape[1]
    ranked = logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best, best_ids = (part[:, :chosen] for part in ranked.sort(descending=True, stable=True))
    of_all = logits.softmax(-1)
    is_routed = positions >= 0
    found = best.softmax(-1) if normalises else of_all.gather(1, best_ids)
    found = torch.where(of_all.isnan().any(-1, keepdim=True), torch.nan, found)
    shares.copy_(torch.where(is_routed[:, None], found, 0.0))
    is_own = is_routed[:, None] & (best_ids >= first_own) & (best_ids < first_own + own)
    ids.copy_(torch.where(is_own, best_ids - first_own, -1))


def order_experts(
    ids: Tensor,
    experts: int,
    places: Tensor,
    visits: Tensor,
    stream: Any = None,
) -> None:
    _order(ids, places, visits, places_of_prompt_visit(ids.numel(), experts))


def sort_rows(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    places: Tensor,
    weights: Tensor,
    sorted: Tensor,
    scales: Tensor,
    stream: Any = None,
) -> None:
    is_own = places >= 0
    own, tokens = places[is_own].long(), is_own.nonzero()[:, 0]
    sorted[own] = x[tokens][:, columns_taken(weights, x.shape[1])]
    scales[own] = torch.rsqrt(sum_squares.sum(-1) / x.shape[1] + epsilon)[tokens]


def prefill_gate_up(
    x: Tensor,
    scales: Tensor,
    weights: Tensor,
    visits: Tensor,
    out: Tensor,
    stream: Any = None,
) -> None:
    order, taken = tiles.gate_up_order(2 * out.shape[1]), columns_taken(weights, out.shape[1])
    for expert, places in _visited(visits):
        products = _in_order(x[places], weights) @ dense(weights[expert], order).T
        out[places] = silu_mul(products * scales[places, None]).to(out.dtype)[:, taken]


def prefill_down(
    input: Tensor, weights: Tensor, visits: Tensor, out: Tensor, stream: Any = None
) -> None:
    order = tiles.plain_order(out.shape[1])
    for expert, places in _visited(visits):
        products = _in_order(input[places], weights) @ dense(weights[expert], order).T
        out[places] = products.to(out.dtype)


def expert_gate_up(
    x: Tensor,
    sum_squares: Tensor,
    epsilon: float,
    weights: Tensor,
    sources: Tensor,
    visits: Tensor,
    out: Tensor,
    stream: Any = None,
) -> None:
    order = tiles.gate_up_order(2 * out.shape[1])
    for expert, places in _visited(visits):
        tokens = sources[places].long()
        matrix = dense(weights[expert], order)
        products = project_normed(x[tokens], sum_squares[tokens], epsilon, matrix)
        out[places] = silu_mul(products).to(out.dtype)


def expert_sum(
    input: Tensor,
    weights: Tensor,
    visits: Tensor,
    shares: Tensor,
    places: Tensor,
    norm_weight: Tensor,
    hidden: Tensor,
    x: Tensor,
    sum_squares: Tensor,
    stream: Any = None,
) -> None:
    results, order = (
        hidden.new_zeros(len(input), hidden.shape[1]),
        tiles.plain_order(hidden.shape[1]),
    )
    for expert, visited in _visited(visits):
        results[visited] = input[visited].float() @ dense(weights[expert], order).T
    add_experts(results, shares, places, norm_weight, hidden, x, sum_squares)


def add_experts(
    results: Tensor,
    shares: Tensor,
    places: Tensor,
    norm_weight: Tensor,
    hidden: Tensor,
    x: Tensor,
    sum_squares: Tensor,
    stream: Any = None,
) -> None:
    for token, row in enumerate(places.tolist()):
        for choice, place in enumerate(row):
            if place >= 0:
                hidden[token] += shares[token, choice] * results[place].float()
    write_norm_inputs(hidden, norm_weight, x, sum_squares)


def columns_taken(weights: Tensor, columns: int) -> Tensor:
    """Which column lies at each place where products with these weights of experts meet
    activations: csrc/cuda/column_orders.cuh."""
    place = torch.arange(columns, device=weights.device)
    if weights.is_floating_point():
        return place
    eight, pair, odd = place % 64 // 8, place % 8 // 2, place % 2
    of_eights = (eight // 4 * 4 + pair) * 8
    of_sixteens = (2 * pair + eight // 4) * 8
    first = of_eights if packing_of(weights[0]) in (fp8, int8) else of_sixteens
    return place // 64 * 64 + first + eight % 4 * 2 + odd


def _in_order(rows: Tensor, weights: Tensor) -> Tensor:
    return rows.float()[:, columns_taken(weights, rows.shape[1]).argsort()]


def places_of_visit(tokens: int) -> int:
    """As csrc/cuda/visits.cuh."""
    return 8 if tokens <= 8 else 16


def places_of_prompt_visit(places: int, experts: int) -> int:
    return 256 if places >= 384 * experts else 160


def _order(ids: Tensor, places: Tensor, visits: Tensor, size: int) -> None:
    places.fill_(-1)
    visits.zero_()
    first, of_visits = 0, []
    for expert, items in _groups(ids.flatten().tolist()).items():
        for turn, item in enumerate(items):
            places.view(-1)[item] = first + turn
        of_visits += _visits(expert, first, len(items), size)
        first += len(items)
    for index, visit in enumerate(of_visits):
        visits[index] = torch.tensor([*visit, len(of_visits)], dtype=torch.int32)


def _groups(experts: list[int]) -> dict[int, list[int]]:
    """The items that go to each expert, in the experts' order; −1 is none."""
    return {
        expert: [item for item, of_item in enumerate(experts) if of_item == expert]
        for expert in sorted(set(experts) - {-1})
    }


def _visits(expert: int, first: int, count: int, size: int) -> list[tuple[int, int, int]]:
    return [(expert, first + done, min(size, count - done)) for done in range(0, count, size)]


def _visited(visits: Tensor) -> list[tuple[int, slice]]:
    return [
        (expert, slice(first, first + count))
        for expert, first, count, total in visits.tolist()
        if total
    ]
