"""The kernels of a mixture of experts against their plain-torch references.

Outputs start as NaN, and so do the places that no token has: what reads them shows. Bounds as in
op_checks.py.
"""

import math
from functools import partial

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.ops import cuda_experts_reference as reference
from openinference_engine.ops import reference as cpu_reference
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, FP32
from tests.gpu.op_checks import check as check_op

TOKEN_COUNTS = [1, 8, 9, 17, 67, 128]

check = partial(check_op, oracle=reference)


def routing(inputs, logits, chosen, normalises=True, positions=None, own=None):
    tokens, experts = logits.shape
    own = range(experts) if own is None else own
    return {
        "logits": logits,
        "positions": inputs.zeros(tokens) if positions is None else positions,
        "normalises": normalises,
        "first_own": own.start,
        "own": len(own),
        "shares": inputs.unwritten(tokens, chosen, dtype=torch.float32),
        "places": inputs.zeros(tokens, chosen) - 7,
        "sources": inputs.zeros(tokens * chosen) - 7,
        "visits": inputs.zeros(tokens * chosen, 4) - 7,
    }


ROUTED = ["shares", "places", "sources", "visits"]
COUNTS = [(1, 1), (8, 2), (33, 5), (256, 16)]


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("experts", "chosen"), COUNTS)
@pytest.mark.parametrize("normalises", [True, False])
def test_route_chooses_the_best_experts(place, inputs, tokens, experts, chosen, normalises):
    logits = inputs.normal(tokens, experts, scale=3.0, dtype=torch.float32)
    positions = inputs.integers(-1, 3, tokens)
    check(place, "route", routing(inputs, logits, chosen, normalises, positions), ROUTED)


@pytest.mark.parametrize("normalises", [True, False])
def test_route_breaks_ties_as_the_cpu_does(place, inputs, normalises):
    """Few different logits, so that most choices are between equals."""
    logits = inputs.integers(0, 3, 40, 50).float()
    after = check(place, "route", routing(inputs, logits, 6, normalises), ROUTED)
    ids, shares = cpu_reference.route(logits, 6, normalises)
    expert_of = torch.full((240,), -1)
    for expert, first, count, total in after["visits"].tolist():
        if total:
            expert_of[first : first + count] = expert
    assert torch.equal(expert_of[after["places"].cpu().long()], ids.cpu())
    torch.testing.assert_close(after["shares"], shares, **FP32)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf], ids=["nan", "infinity", "minus infinity"]
)
@pytest.mark.parametrize("normalises", [True, False])
def test_route_of_what_is_no_number_stays_within_the_experts(place, inputs, value, normalises):
    logits = inputs.normal(5, 40, dtype=torch.float32)
    logits[1] = value
    logits[3, 7] = value
    check(place, "route", routing(inputs, logits, 4, normalises), ROUTED)


@pytest.mark.parametrize("tokens", [1, 9, 67])
@pytest.mark.parametrize("own", [range(3), range(3, 9), range(9, 9)], ids=str)
def test_route_gives_places_to_a_ranks_own_experts_alone(place, inputs, tokens, own):
    """With the shares that they have among all."""
    logits = inputs.normal(tokens, 9, scale=3.0, dtype=torch.float32)
    after = check(place, "route", routing(inputs, logits, 4, own=own), ROUTED)
    whole = routing(inputs, logits, 4)
    place.ops.route(**whole, stream=place.stream)
    assert torch.equal(after["shares"], whole["shares"])
    num_own = (after["places"] >= 0).sum()
    assert num_own == sum(
        count for expert, _, count, total in whole["visits"].tolist() if total and expert in own
    )


def test_route_refuses_experts_that_there_are_not(place, inputs):
    logits = inputs.normal(1, 8, dtype=torch.float32)
    with pytest.raises(place.ops.KernelError, match="first_own 6, own 3: not among 8 experts"):
        place.ops.route(**routing(inputs, logits, 2, own=range(6, 9)), stream=place.stream)


@pytest.mark.parametrize("tokens", [5, 67])
def test_route_sends_rows_without_a_position_nowhere(place, inputs, tokens):
    logits, nowhere = inputs.normal(tokens, 8, dtype=torch.float32), inputs.zeros(tokens) - 1
    after = check(place, "route", routing(inputs, logits, 2, positions=nowhere), ROUTED)
    assert not after["visits"].any()
    assert (after["places"] == -1).all()


PROMPT_COUNTS = [1, 33, 300]


@pytest.mark.parametrize("tokens", PROMPT_COUNTS)
@pytest.mark.parametrize(("experts", "chosen"), COUNTS)
def test_choose_experts_of_many_tokens(place, inputs, tokens, experts, chosen):
    logits = inputs.normal(tokens, experts, scale=3.0, dtype=torch.float32)
    arguments = {
        "logits": logits,
        "positions": inputs.integers(-1, 3, tokens),
        "normalises": True,
        "first_own": experts // 3,
        "own": experts // 2,
        "shares": inputs.unwritten(tokens, chosen, dtype=torch.float32),
        "ids": inputs.zeros(tokens, chosen) - 7,
    }
    check(place, "choose_experts", arguments, ["shares", "ids"])


@pytest.mark.parametrize("tokens", PROMPT_COUNTS)
@pytest.mark.parametrize("experts", [1, 3, 40])
def test_order_experts_gives_each_choice_a_place(place, inputs, tokens, experts):
    """Of all choices alike where there is one expert, which then has several visits."""
    arguments = order(inputs, inputs.integers(-1, experts, tokens, 3), experts)
    check(place, "order_experts", arguments, ["places", "sources", "visits"])


def order(inputs, ids, experts):
    tokens, chosen = ids.shape
    return {
        "ids": ids,
        "experts": experts,
        "places": inputs.zeros(tokens, chosen) - 7,
        "sources": inputs.zeros(tokens * chosen) - 7,
        "visits": inputs.zeros(tokens * chosen, 4) - 7,
    }


@pytest.mark.parametrize("hidden", [16, 576, 2064])
def test_sort_rows_brings_each_place_its_token(place, inputs, hidden):
    x, squares = inputs.normed(9, hidden)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "sources": inputs.integers(0, 9, 20),
        "sorted": inputs.unwritten(20, hidden),
        "scales": inputs.unwritten(20, dtype=torch.float32),
    }
    check(place, "sort_rows", arguments, ["sorted", "scales"])


def visits_of(inputs, ids):
    """sources and visits of tokens that go to these experts: (T, K), each −1 for none."""
    tokens, chosen = ids.shape
    logits = torch.full((tokens, 9), -50.0)
    for choice in range(chosen):
        logits.scatter_(1, ids[:, choice : choice + 1].clamp(min=0), float(chosen - choice))
    positions = torch.where(ids[:, 0] < 0, -1, 0).int()
    arguments = routing(inputs, logits.to(inputs.device), chosen)
    arguments["positions"] = positions.to(inputs.device)
    reference.route(**arguments)
    return arguments


def random_ids(inputs, tokens, chosen=2, experts=9):
    ids = torch.rand(tokens, experts, generator=inputs.random).argsort(dim=1)[:, :chosen]
    ids[torch.rand(tokens, generator=inputs.random) < 0.2] = -1
    return ids


def all_to_one(_, tokens):
    return torch.full((tokens, 1), 6)


PRODUCT_COUNTS = [1, 9, 67]  # of each number of groups, and more than one visit of an expert
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
        "norm_weight": inputs.normal(rows),
        "hidden": inputs.normal(tokens, rows, dtype=torch.float32),
        "x": inputs.unwritten(tokens, rows),
        "sum_squares": inputs.unwritten(tokens, rows // 16, dtype=torch.float32),
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
    results = inputs.normal(ids.numel(), columns, dtype=torch.float32)
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
    nobody = torch.empty(0, 1, dtype=torch.int64)
    place.ops.expert_gate_up(**_gate_up(inputs, nobody, 32, 8), stream=place.stream)
    place.ops.expert_sum(**_sum(inputs, nobody, 16, 32), stream=place.stream)


@pytest.mark.parametrize(
    ("tokens", "experts", "chosen", "message"),
    [
        (129, 8, 2, "logits: 129 tokens, at most 128"),
        (1, 257, 2, "logits: 257 experts, at most 256"),
        (1, 200, 17, "shares: 17 experts of a token, at most 16"),
        (1, 3, 4, "shares: 4 experts of a token, at most 3"),
    ],
)
def test_route_refuses_more_than_it_knows(place, inputs, tokens, experts, chosen, message):
    logits = inputs.normal(tokens, experts, dtype=torch.float32)
    with pytest.raises(place.ops.KernelError, match=message):
        place.ops.route(**routing(inputs, logits, chosen), stream=place.stream)


def test_experts_of_another_shape_are_refused(place, inputs):
    arguments = _gate_up(inputs, torch.tensor([[4]]), 64, 8)
    arguments["weights"] = arguments["weights"][:, :15].clone()
    with pytest.raises(place.ops.KernelError, match=r"weights: shape \(135, 64\), expected"):
        place.ops.expert_gate_up(**arguments, stream=place.stream)
