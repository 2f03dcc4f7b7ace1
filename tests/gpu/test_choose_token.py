"""The head with its greedy choice against its reference."""

import math

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, LOOSE, TOKEN_COUNTS, check


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("vocabulary", [1, 80, 1031, 1036])
def test_choose_token_takes_the_largest_logit_and_moves_on(place, inputs, tokens, vocabulary):
    arguments = _choice(place, inputs, tokens, _padded(inputs, vocabulary), vocabulary)
    arguments["positions"] = inputs.integers(-1, 9, tokens)
    after = check(place, "choose_token", arguments, ["logits", "positions"])
    chosen = torch.where(arguments["positions"] < 0, -1, after["logits"].argmax(-1))
    assert after["tokens"].tolist() == chosen.tolist()
    assert not after["counter"].any()


@pytest.mark.parametrize("tokens", [3, 17])
def test_choose_token_breaks_ties_by_the_lowest_id(place, inputs, tokens):
    weights = inputs.normal(1, 96).repeat(64, 1)
    arguments = _choice(place, inputs, tokens, weights)
    after = check(place, "choose_token", arguments, ["logits"])
    assert after["tokens"].tolist() == [0] * tokens


@pytest.mark.parametrize("tokens", [2, 17])
def test_choose_token_stops_a_row_without_logits(place, inputs, tokens):
    """NaN must not become a token id: the next embed would read outside its table."""
    arguments = _choice(place, inputs, tokens, inputs.normal(64, 96))
    arguments["x"][0] = math.nan
    after = check(place, "choose_token", arguments, ["tokens", "positions"])
    assert after["tokens"][0] == -1
    assert after["positions"].tolist() == [-1] + [1] * (tokens - 1)


def test_choose_token_compares_all_of_many_logits(place, inputs):
    """More than a block of the comparison of many rows looks at in one turn."""
    weights = inputs.normal(9_001, 32, scale=32**-0.5)
    weights = torch.nn.functional.pad(weights, (0, 0, 0, -len(weights) % 16))
    arguments = _choice(place, inputs, 17, weights, vocabulary=9_001)
    after = check(place, "choose_token", arguments, ["logits"])
    assert after["tokens"].tolist() == after["logits"].argmax(-1).tolist()


def _padded(inputs, vocabulary):
    """Padding rows that would win every comparison if they took part."""
    weights = torch.full((-(-vocabulary // 16) * 16, 96), math.inf, dtype=torch.bfloat16)
    weights[:vocabulary] = inputs.normal(vocabulary, 96, scale=96**-0.5)
    return weights.to(inputs.device)


def _choice(place, inputs, tokens, weights, vocabulary=None):
    x, squares = inputs.normed(tokens, weights.shape[1])
    return {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": weights,
        "logits": inputs.unwritten(tokens, vocabulary or len(weights), dtype=torch.float32),
        "tokens": inputs.zeros(tokens),
        "positions": inputs.zeros(tokens),
        "best": inputs.unwritten(
            4 * tokens * place.ops.multiprocessor_count(), dtype=torch.float32
        ),
        "counter": inputs.zeros(1),
    }


@pytest.mark.parametrize("tokens", [3, 20, 50, 100])
@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
def test_packed_head_chooses_like_its_dense_matrix(place, inputs, packing, tokens):
    units = packing.pack(
        *packing.quantise(inputs.normal(80, 128, scale=128**-0.5)), tiles.plain_order(80)
    )
    arguments = _choice(place, inputs, tokens, inputs.normal(80, 128)) | {"weights": units}
    bounds = {"logits": LOOSE} if tokens > 16 else {}  # scales are applied in bf16
    after = check(place, "choose_token", arguments, ["logits"], bounds)
    assert after["tokens"].tolist() == after["logits"].argmax(-1).tolist()
