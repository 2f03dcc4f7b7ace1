"""The ops of a layer but attention against their references, at odd sizes."""

import math

import pytest
import torch

from tests.gpu.op_checks import EPSILON, TOKEN_COUNTS, check


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
def test_embed_writes_rows_and_norm_inputs(place, inputs, tokens):
    ids = inputs.integers(-1, 52, tokens)  # -1, 50 and 51 are no tokens of a vocabulary of 50
    arguments = {
        "tokens": ids,
        "table": inputs.normal(50, 144),
        "norm_weight": inputs.normal(144),
        "hidden": inputs.unwritten(tokens, 144, dtype=torch.float32),
        "x": inputs.unwritten(tokens, 144),
        "sum_squares": inputs.unwritten(tokens, 9, dtype=torch.float32),
    }
    check(place, "embed", arguments, ["hidden", "x", "sum_squares"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (80, 576), (128, 2208)])
def test_project_residual_adds_to_hidden(place, inputs, tokens, rows, columns):
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": inputs.normal(rows, columns, scale=columns**-0.5),
        **inputs.new_state(tokens, rows),
    }
    check(place, "project_residual", arguments, ["hidden", "x", "sum_squares"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("hidden", "intermediate"), [(32, 8), (576, 88), (2208, 40)])
def test_project_gate_up_applies_swiglu(place, inputs, tokens, hidden, intermediate):
    x, squares = inputs.normed(tokens, hidden)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(2 * intermediate, hidden, scale=hidden**-0.5),
        "out": inputs.unwritten(tokens, intermediate),
    }
    check(place, "project_gate_up", arguments, ["out"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64)])
def test_project_qkv_rotates_and_appends(place, inputs, tokens, query_heads, kv_heads, head_dim):
    x, squares = inputs.normed(tokens, 192)
    table, blocks = inputs.pages(tokens, per_sequence=3)
    cache = (blocks * 16, kv_heads, head_dim)
    rows = (query_heads + 2 * kv_heads) * head_dim
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(rows, 192, scale=192**-0.5),
        "rotary": inputs.normal(48, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": table,
        "query": inputs.unwritten(tokens, query_heads, head_dim),
        "key_cache": inputs.unwritten(*cache),
        "value_cache": inputs.unwritten(*cache),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


@pytest.mark.parametrize("head_dim", [64, 128])
def test_project_qkv_without_pages_leaves_a_row_for_each_token(place, inputs, head_dim):
    tokens, kv_heads = 5, 2
    x, squares = inputs.normed(tokens, 192)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(3 * kv_heads * head_dim, 192, scale=192**-0.5),
        "rotary": inputs.normal(48, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": inputs.integers(0, 1, tokens, 3)[:, :0],
        "query": inputs.unwritten(tokens, kv_heads, head_dim),
        "key_cache": inputs.unwritten(tokens, kv_heads, head_dim),
        "value_cache": inputs.unwritten(tokens, kv_heads, head_dim),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("rows", [8, 50, 1040])
def test_project_leaves_sums_as_they_are(place, inputs, tokens, rows):
    """Rows that pad the weights would show: they are infinite."""
    x, squares = inputs.normed(tokens, 96)
    weights = torch.full((-(-rows // 16) * 16, 96), math.inf, dtype=torch.bfloat16)
    weights[:rows] = inputs.normal(rows, 96, scale=96**-0.5)
    arguments = {"x": x, "sum_squares": squares, "epsilon": EPSILON}
    arguments |= {"weights": weights.to(inputs.device)}
    arguments |= {"out": inputs.unwritten(tokens, rows, dtype=torch.float32)}
    check(place, "project", arguments, ["out"])


@pytest.mark.parametrize("tokens", [0, 1, 9, 40])
@pytest.mark.parametrize("has_pages", [True, False])
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64)])
def test_project_normed_qkv_norms_heads_before_they_rotate(
    place, inputs, tokens, has_pages, query_heads, kv_heads, head_dim
):
    x, squares = inputs.normed(tokens, 192)
    table, blocks = inputs.pages(tokens, per_sequence=3)
    cache = (blocks * 16 if has_pages else tokens, kv_heads, head_dim)
    rows = (query_heads + 2 * kv_heads) * head_dim
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(rows, 192, scale=5 * 192**-0.5),
        "norms": inputs.normal(2, head_dim),
        "sums": inputs.unwritten(tokens, rows, dtype=torch.float32),
        "rotary": inputs.normal(48, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": table if has_pages else table[:, :0],
        "query": inputs.unwritten(tokens, query_heads, head_dim),
        "key_cache": inputs.unwritten(*cache),
        "value_cache": inputs.unwritten(*cache),
    }
    check(place, "project_normed_qkv", arguments, ["query", "key_cache", "value_cache"])


def test_empty_batch_is_a_step_that_does_nothing(place, inputs):
    x, squares = inputs.normed(0, 64)
    weights, beside = inputs.normal(16, 64), inputs.unwritten(1, 8)
    place.ops.project_gate_up(x, squares, EPSILON, weights, beside[:0], place.stream)
    assert beside.isnan().all()


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("x", lambda x: x.float(), "x: dtype float32, expected bfloat16"),
        ("x", lambda x: x.new_zeros(1, 4, 132, dtype=torch.int8), "codes of x meet packed weights"),
        ("out", lambda out: out[:1].clone(), r"out: shape \(1, 8\), expected \(2, 8\)"),
        ("weights", lambda weights: weights.T.contiguous().T, "weights: not contiguous"),
        ("weights", lambda weights: _moved_by_one(weights), "weights: address is not a multiple"),
        ("out", lambda out: out[:, 1:].clone(), "out: 7 columns, need a multiple of 8"),
    ],
)
def test_launcher_refuses_and_names_what_is_wrong(place, inputs, name, spoil, message):
    x, squares = inputs.normed(2, 64)
    arguments = {"x": x, "sum_squares": squares, "epsilon": EPSILON}
    arguments |= {"weights": inputs.normal(16, 64), "out": inputs.unwritten(2, 8)}
    arguments[name] = spoil(arguments[name])
    with pytest.raises(place.ops.KernelError, match=message):
        place.ops.project_gate_up(**arguments, stream=place.stream)


def _moved_by_one(matrix):
    """The same shape, one element behind an aligned address."""
    return matrix.new_zeros(matrix.numel() + 1)[1:].view(matrix.shape)
