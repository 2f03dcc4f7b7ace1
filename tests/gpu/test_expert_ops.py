"""The products of a mixture of experts against their plain-torch references.

Outputs start as NaN, and so do the places that no token has: what reads them shows. Bounds as in
op_checks.py.
"""

import math

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON
from tests.gpu.routed import TOKEN_COUNTS, all_to_one, check, random_ids, routing, visits_of

PRODUCT_COUNTS = [0, 1, 9, 67]  # of each number of groups, and more than one visit of an expert
ids_of = pytest.mark.parametrize("ids_of", [random_ids, all_to_one])


@pytest.mark.parametrize("tokens", PRODUCT_COUNTS)
@pytest.mark.parametrize(("hidden", "intermediate"), [(32, 8), (576, 24)])
@ids_of
def test_expert_gate_up_serves_each_place(place, inputs, tokens, hidden, intermediate, ids_of):
    arguments = _gate_up(inputs, ids_of(inputs, tokens), hidden, intermediate)
    check(place, "expert_gate_up", arguments, ["out"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (80, 1120), (112, 2176)])
@ids_of
def test_expert_sum_adds_shares_of_each_place(place, inputs, tokens, rows, columns, ids_of):
    arguments = _sum(inputs, ids_of(inputs, tokens), rows, columns)
    check(place, "expert_sum", arguments, ["hidden", "x", "sum_squares"])


packings = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)


@packings
@pytest.mark.parametrize("tokens", [3, 40])
def test_packed_experts_multiply_like_their_dense_matrices(place, inputs, packing, tokens):
    ids = random_ids(inputs, tokens)

    def packed(matrices, order):
        units = [packing.pack(*packing.quantise(matrix), order) for matrix in matrices]
        return torch.stack(units)

    arguments = _gate_up(inputs, ids, 256, 16)
    arguments["weights"] = packed(arguments["weights"], tiles.gate_up_order(32))
    check(place, "expert_gate_up", arguments, ["out"])
    arguments = _sum(inputs, ids, 32, 1152)
    arguments["weights"] = packed(arguments["weights"], tiles.plain_order(32))
    check(place, "expert_sum", arguments, ["hidden", "x"])


def _gate_up(inputs, ids, hidden, intermediate):
    x, squares = inputs.normed(len(ids), hidden)
    routed = visits_of(inputs, ids)
    return {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(9, 2 * intermediate, hidden, scale=hidden**-0.5),
        "sources": routed["sources"],
        "visits": routed["visits"],
        "out": inputs.unwritten(ids.numel(), intermediate),
    }


def _sum(inputs, ids, rows, columns):
    activations = inputs.normal(ids.numel(), columns)
    activations[(ids[:, 0] >= 0).sum() * ids.shape[1] :] = math.nan
    routed, tokens = visits_of(inputs, ids), len(ids)
    return {
        "input": activations,
        "weights": inputs.normal(9, rows, columns, scale=columns**-0.5),
        "visits": routed["visits"],
        "shares": routed["shares"],
        "places": routed["places"],
        **inputs.new_state(tokens, rows),
    }


@pytest.mark.parametrize("tokens", [8, 9, 17])
def test_a_token_is_served_alike_in_every_company(place, inputs, tokens):
    """Bit for bit: neither the tokens beside it nor their experts change what an expert makes."""
    alone = _gate_up(inputs, torch.tensor([[4]]), 2208, 24)
    place.ops.expert_gate_up(**alone, stream=place.stream)
    ids = random_ids(inputs, tokens, chosen=1)
    ids[tokens // 2] = 4
    beside = _gate_up(inputs, ids, 2208, 24) | {"weights": alone["weights"]}
    for name in ("x", "sum_squares"):
        beside[name][tokens // 2] = alone[name][0]
    place.ops.expert_gate_up(**beside, stream=place.stream)
    own = beside["sources"] == tokens // 2
    own &= torch.arange(tokens, device=own.device) < (ids >= 0).sum()
    assert torch.equal(beside["out"][own], alone["out"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("columns", [16, 144])
def test_add_experts_adds_shares_of_results(place, inputs, tokens, columns):
    ids = random_ids(inputs, tokens)
    routed = visits_of(inputs, ids)
    results = inputs.normal(ids.numel(), columns)
    results[(ids[:, 0] >= 0).sum() * 2 :] = math.nan
    arguments = {
        "results": results,
        "shares": routed["shares"],
        "places": routed["places"],
        "norm_weight": inputs.normal(columns),
        "hidden": inputs.normal(tokens, columns, dtype=torch.float32),
        "x": inputs.unwritten(tokens, columns),
        "sum_squares": inputs.unwritten(tokens, columns // 16, dtype=torch.float32),
    }
    check(place, "add_experts", arguments, ["hidden", "x", "sum_squares"])


def test_empty_batch_visits_nobody(place, inputs):
    arguments = routing(inputs, inputs.normal(0, 8, dtype=torch.float32), 2)
    place.ops.route(**arguments, stream=place.stream)
    nobody, beside = torch.empty(0, 1, dtype=torch.int64), inputs.unwritten(1, 16)
    gate_up = _gate_up(inputs, nobody, 32, 8) | {"out": beside[:0, :8]}
    place.ops.expert_gate_up(**gate_up, stream=place.stream)
    place.ops.expert_sum(**_sum(inputs, nobody, 16, 32) | {"x": beside[:0]}, stream=place.stream)
    assert beside.isnan().all()


def test_experts_of_another_shape_are_refused(place, inputs):
    arguments = _gate_up(inputs, torch.tensor([[4]]), 64, 8)
    arguments["weights"] = arguments["weights"][:, :15].clone()
    with pytest.raises(place.ops.KernelError, match=r"weights: shape \(135, 64\), expected"):
        place.ops.expert_gate_up(**arguments, stream=place.stream)
