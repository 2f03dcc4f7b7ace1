"""Products with packed weights against those with their dense matrix."""

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import BF16, EPSILON, TOKEN_COUNTS, check

packings = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)


@packings
@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("columns", [128, 384, 4224])
def test_packed_weights_multiply_like_their_dense_matrix(place, inputs, packing, tokens, columns):
    """For many tokens a GPU rounds each weight to bf16 once more, after it was scaled."""
    matrix, order = inputs.normal(80, columns, scale=columns**-0.5), tiles.plain_order(80)
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": packing.pack(*packing.quantise(matrix), order),
        "norm_weight": inputs.normal(80),
        "hidden": inputs.normal(tokens, 80, dtype=torch.float32),
        "x": inputs.unwritten(tokens, 80),
        "sum_squares": inputs.unwritten(tokens, 5, dtype=torch.float32),
    }
    rounds_weights = tokens > 16 and place.device.type == "cuda"
    times_norm = {"rtol": 2**-5, "atol": 2**-5}  # hidden's bound, by a norm weight of up to four
    rounded = {"hidden": BF16, "x": times_norm, "sum_squares": BF16}
    bounds = rounded if rounds_weights else {}
    check(place, "project_residual", arguments, ["hidden", "x", "sum_squares"], bounds)


@packings
def test_packed_gate_up_pairs_the_rows_of_a_tile(place, inputs, packing):
    x, squares = inputs.normed(5, 256)
    parts = packing.quantise(inputs.normal(80, 256, scale=256**-0.5))
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": packing.pack(*parts, tiles.gate_up_order(80)),
        "out": inputs.unwritten(5, 40),
    }
    check(place, "project_gate_up", arguments, ["out"])


@packings
@pytest.mark.parametrize("head_dim", [64, 128])
def test_packed_qkv_pairs_the_halves_of_a_head(place, inputs, packing, head_dim):
    x, squares = inputs.normed(4, 128)
    table, blocks = inputs.pages(4, per_sequence=1)
    parts = packing.quantise(inputs.normal(4 * head_dim, 128, scale=128**-0.5))
    cache = (blocks * 16, 1, head_dim)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": packing.pack(*parts, tiles.qkv_order(4 * head_dim, head_dim)),
        "rotary": inputs.normal(16, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(0, 16, 4),
        "block_table": table,
        "query": inputs.unwritten(4, 2, head_dim),
        "key_cache": inputs.unwritten(*cache),
        "value_cache": inputs.unwritten(*cache),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])
