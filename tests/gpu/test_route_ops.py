"""The kernels that send tokens to experts, against their plain-torch references.

Outputs start as what is no answer. Bounds as in op_checks.py.
"""

import math

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.ops import reference as cpu_reference
from openinference_engine.packings import PACKINGS, pack_matrix

from tests.gpu.op_checks import EPSILON, FP32
from tests.gpu.routed import TOKEN_COUNTS, check, routing

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


@pytest.mark.parametrize("tokens", [0, 1, 9, 67])
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


PROMPT_COUNTS = [0, 1, 33, 300]


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
    check(place, "order_experts", arguments, ["places", "visits"])


def order(inputs, ids, experts):
    tokens, chosen = ids.shape
    return {
        "ids": ids,
        "experts": experts,
        "places": inputs.zeros(tokens, chosen) - 7,
        "visits": inputs.zeros(tokens * chosen, 4) - 7,
    }


SORTED = [(32, None), (576, None), (2080, None), *((640, name) for name in PACKINGS)]


@pytest.mark.parametrize("tokens", [0, 9])
@pytest.mark.parametrize(("hidden", "packing"), SORTED)
def test_sort_rows_brings_tokens_to_their_places(place, inputs, hidden, packing, tokens):
    """In the order of columns that packed weights need; nothing at places that nobody has."""
    x, squares = inputs.normed(tokens, hidden)
    places = torch.randperm(tokens * 3, generator=inputs.random, dtype=torch.int32)
    places = places.view(tokens, 3)
    weights = inputs.normal(1, 16, hidden)
    if packing is not None:
        weights = pack_matrix(PACKINGS[packing], weights[0], tiles.plain_order(16))[None]
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "places": torch.where(places < 20, places, -1).to(inputs.device),
        "weights": weights,
        "sorted": inputs.unwritten(tokens * 3, hidden),
        "scales": inputs.unwritten(tokens * 3, dtype=torch.float32),
    }
    check(place, "sort_rows", arguments, ["sorted", "scales"])
