"""Packed weights of prompts, which blocks that multiply them unpack once in the stream's room."""

from dataclasses import replace

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, LOOSE, Inputs, check

pytestmark = pytest.mark.gpu

TOKENS = [520, 700, 2200]  # three tiles and nine, of which the ninth begins a second group
ROOM_BYTES = 12 << 20  # too few for some products, which take two launches then


@pytest.fixture
def inputs(hopper):
    return Inputs(hopper)


@pytest.fixture
def roomy(hopper):
    """The place with a room that holds NaN but for its counts, which ops must leave at zero."""
    room = torch.full((ROOM_BYTES,), 0xFF, dtype=torch.uint8, device=hopper.device)
    counts = room[: 4 << 14].zero_()
    yield replace(hopper, stream=hopper.stream.with_room(room))
    assert not counts.any()


def _packed(packing, matrix, order):
    return packing.pack(*packing.quantise(matrix), order)


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("rows", "columns"), [(9104, 1152), (8192, 384)])
def test_many_tokens_are_added_to_hidden(roomy, inputs, packing, tokens, rows, columns):
    matrix = inputs.normal(rows, columns, scale=columns**-0.5)
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": _packed(packing, matrix, tiles.plain_order(rows)),
        **inputs.new_state(tokens, rows),
    }
    check(roomy, "project_residual", arguments, ["hidden", "x"], {"hidden": LOOSE, "x": LOOSE})


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("hidden", "inner"), [(256, 9000), (640, 8192)])
def test_many_tokens_pass_swiglu(roomy, inputs, packing, tokens, hidden, inner):
    x, squares = inputs.normed(tokens, hidden)
    matrix = inputs.normal(2 * inner, hidden, scale=hidden**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(packing, matrix, tiles.gate_up_order(2 * inner)),
        "out": inputs.unwritten(tokens, inner),
    }
    check(roomy, "project_gate_up", arguments, ["out"], {"out": LOOSE})


@pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(41, 3, 128), (90, 19, 64)])
def test_many_tokens_are_rotated_and_appended(
    roomy, inputs, packing, tokens, query_heads, kv_heads, head_dim
):
    x, squares = inputs.normed(tokens, 384)
    pages = inputs.pages(tokens, per_sequence=3)
    rows = (query_heads + 2 * kv_heads) * head_dim
    matrix = inputs.normal(rows, 384, scale=384**-0.5)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(packing, matrix, tiles.qkv_order(rows, head_dim)),
        **inputs.appended(pages, query_heads, kv_heads, head_dim),
    }
    outputs = ["query", "key_cache", "value_cache"]
    check(roomy, "project_qkv", arguments, outputs, dict.fromkeys(outputs, LOOSE))
