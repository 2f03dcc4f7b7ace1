"""Kernels that only Hopper has, against their references: they cannot be emulated.

Weights that are packed are multiplied with their scales before the product, in bf16: one rounding
of each weight more than the kernels for few tokens have.
"""

import math

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.ops import cuda_experts_reference as experts_reference
from openinference_engine.ops import cuda_reference as reference
from openinference_engine.ops.plan import NO_WINDOW
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, LOOSE, Inputs, check

pytestmark = pytest.mark.gpu

MANY_TOKENS = [0, 17, 31, 32, 33, 65, 100, 128, 129, 300, 700]
FORMATS = {"bf16": lambda matrix, order: matrix} | {
    name: lambda matrix, order, packing=packing: packing.pack(*packing.quantise(matrix), order)
    for name, packing in PACKINGS.items()
}


@pytest.fixture
def inputs(hopper):
    return Inputs(hopper)


@pytest.mark.parametrize("window", [NO_WINDOW, 129, 100, 1])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("group", [1, 3])
def test_attend_prefill_equals_softmax_over_the_pages(hopper, inputs, head_dim, group, window):
    table, blocks = inputs.pages(len(LENGTHS), per_sequence=max(LENGTHS) // 16 + 1)
    keys, values = (inputs.normal(blocks * 16, 2, head_dim) for _ in range(2))
    for sequence, length in enumerate(LENGTHS):  # what no token wrote may hold anything
        unwritten = reference.slots_of(table[sequence])[length:]
        keys[unwritten] = values[unwritten] = math.nan
    arguments = _chunks(inputs, keys, values, table, group, head_dim, window)
    check(hopper, "attend_prefill", arguments, ["out"])


NEW_ROWS, LENGTHS = [1, 0, 5, 128, 130, 257], [1, 40, 300, 128, 130, 1000]


def _chunks(inputs, keys, values, table, group, head_dim, window):
    rows, heads, device = sum(NEW_ROWS), group * keys.shape[1], inputs.device
    return {
        "query": inputs.normal(rows, heads, head_dim),
        "key_cache": keys,
        "value_cache": values,
        "starts": torch.tensor([0, *NEW_ROWS]).cumsum(0).int().to(device),
        "lengths": torch.tensor(LENGTHS, dtype=torch.int32, device=device),
        "block_table": table,
        "max_rows": max(NEW_ROWS),
        "scale": head_dim**-0.5,
        "window": window,
        "out": inputs.unwritten(rows, heads, head_dim),
    }


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 128), (80, 640), (9104, 1152), (1040, 4224)])
def test_many_tokens_are_added_to_hidden(hopper, inputs, weight_format, tokens, rows, columns):
    matrix = inputs.normal(rows, columns, scale=columns**-0.5)
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": FORMATS[weight_format](matrix, tiles.plain_order(rows)),
        **inputs.new_state(tokens, rows),
    }
    bounds = {} if weight_format == "bf16" else {"hidden": LOOSE, "x": LOOSE}
    outputs = ["hidden", "x"] if bounds else ["hidden", "x", "sum_squares"]
    check(hopper, "project_residual", arguments, outputs, bounds)


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("hidden", "inner"), [(128, 8), (640, 88), (256, 9000), (640, 9088)])
def test_many_tokens_pass_swiglu(hopper, inputs, weight_format, tokens, hidden, inner):
    check_swiglu(hopper, inputs, weight_format, tokens, hidden, inner)


@pytest.mark.parametrize("weight_format", ["int4", "int4-zero"])
@pytest.mark.parametrize("tokens", [17, 32])
def test_tokens_of_many_columns_pass_swiglu(hopper, inputs, weight_format, tokens):
    """By blocks of up to eight tiles, some of fewer."""
    check_swiglu(hopper, inputs, weight_format, tokens, hidden=8320, inner=8520)


def check_swiglu(hopper, inputs, weight_format, tokens, hidden, inner):
    x, squares = inputs.normed(tokens, hidden)
    matrix = inputs.normal(2 * inner, hidden, scale=hidden**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": FORMATS[weight_format](matrix, tiles.gate_up_order(2 * inner)),
        "out": inputs.unwritten(tokens, inner),
    }
    check(hopper, "project_gate_up", arguments, ["out"], {"out": LOOSE})


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(
    ("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64), (41, 3, 128), (90, 3, 64)]
)
def test_many_tokens_are_rotated_and_appended(
    hopper, inputs, weight_format, tokens, query_heads, kv_heads, head_dim
):
    x, squares = inputs.normed(tokens, 384)
    pages = inputs.pages(tokens, per_sequence=3)
    rows = (query_heads + 2 * kv_heads) * head_dim
    matrix = inputs.normal(rows, 384, scale=384**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": FORMATS[weight_format](matrix, tiles.qkv_order(rows, head_dim)),
        **inputs.appended(pages, query_heads, kv_heads, head_dim),
    }
    outputs = ["query", "key_cache", "value_cache"]
    check(hopper, "project_qkv", arguments, outputs, dict.fromkeys(outputs, LOOSE))


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(
    ("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64), (41, 3, 128), (91, 3, 64)]
)
def test_heads_of_many_tokens_are_normed(
    hopper, inputs, weight_format, tokens, query_heads, kv_heads, head_dim
):
    """With and without a product that has whole heads in hand, and half a block of them."""
    x, squares = inputs.normed(tokens, 384)
    pages = inputs.pages(tokens, per_sequence=3)
    rows = (query_heads + 2 * kv_heads) * head_dim
    matrix = inputs.normal(rows, 384, scale=384**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": FORMATS[weight_format](matrix, tiles.plain_order(rows)),
        "norms": 1 + inputs.normal(2, head_dim, scale=0.3),
        "sums": inputs.unwritten(tokens, rows, dtype=torch.float32),
        **inputs.appended(pages, query_heads, kv_heads, head_dim),
    }
    outputs = ["query", "key_cache", "value_cache"]
    check(hopper, "project_normed_qkv", arguments, outputs, dict.fromkeys(outputs, LOOSE))


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", [0, 1, 40, 300, 700, 2200])
@pytest.mark.parametrize(("hidden", "inner"), [(128, 128), (640, 384), (1152, 1280)])
def test_sorted_rows_meet_their_experts(hopper, inputs, weight_format, tokens, hidden, inner):
    """Visits of few and of many places, and experts that nobody visits."""
    experts, pack = 11, FORMATS[weight_format]
    routed = _ordered(inputs, tokens, experts)
    places = len(routed["visits"])
    gate_up = inputs.normal(experts, 2 * inner, hidden, scale=hidden**-0.5)
    arguments = {
        "x": inputs.normal(places, hidden),
        "scales": inputs.normal(places, dtype=torch.float32).abs().clamp(max=1.0),
        "weights": torch.stack([pack(m, tiles.gate_up_order(2 * inner)) for m in gate_up]),
        "visits": routed["visits"],
        "out": inputs.unwritten(places, inner),
    }
    check(hopper, "prefill_gate_up", arguments, ["out"], {"out": LOOSE}, oracle=experts_reference)
    down = inputs.normal(experts, hidden, inner, scale=inner**-0.5)
    activations = inputs.normal(places, inner)
    activations[(routed["ids"] >= 0).sum() :] = math.nan
    arguments = {
        "input": activations,
        "weights": torch.stack([pack(m, tiles.plain_order(hidden)) for m in down]),
        "visits": routed["visits"],
        "out": inputs.unwritten(places, hidden),
    }
    bounds = {} if weight_format == "bf16" else {"out": LOOSE}
    check(hopper, "prefill_down", arguments, ["out"], bounds, oracle=experts_reference)


def _ordered(inputs, tokens, experts):
    """Most go to the second expert, some nowhere."""
    ids = inputs.integers(-1, experts, tokens, 2)
    ids[: tokens // 2, 0] = 1
    arguments = {
        "ids": ids,
        "experts": experts,
        "places": inputs.zeros(tokens, 2),
        "visits": inputs.zeros(tokens * 2, 4),
    }
    experts_reference.order_experts(**arguments)
    return arguments


@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("tokens", [0, 17, 33, 100, 300])
@pytest.mark.parametrize(("rows", "columns"), [(16, 128), (80, 640), (5120, 2048)])
def test_many_tokens_are_projected(hopper, inputs, weight_format, tokens, rows, columns):
    x, squares = inputs.normed(tokens, columns)
    matrix = inputs.normal(rows, columns, scale=columns**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": FORMATS[weight_format](matrix, tiles.plain_order(rows)),
        "out": inputs.unwritten(tokens, rows, dtype=torch.float32),
    }
    bounds = {} if weight_format == "bf16" else {"out": LOOSE}
    check(hopper, "project", arguments, ["out"], bounds)
