"""Weights of four bits by activations of eight: codes with their sums, and products of them."""

import pytest
import torch
from openinference_engine import summed_rows, tiles
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, Inputs, check

FORMATS = ["int4", "int4-zero"]
MANY_TOKENS = [0, 1, 33, 64, 129, 300]
CLOSE = {"rtol": 1e-3, "atol": 4e-3}  # e4m3 adds up with fewer bits than float32 within 128 columns


@pytest.fixture
def inputs(place):
    return Inputs(place)


@pytest.mark.parametrize(("rows", "columns"), [(0, 384), (1, 128), (3, 384), (67, 1152), (5, 4224)])
def test_codes_and_sums_are_what_the_reference_makes(place, inputs, rows, columns):
    x = inputs.normal(rows, columns)
    x[:, :16] *= 300
    x[:1, :128] = 0
    coded, expected = (_empty(inputs, rows, columns) for _ in range(2))
    no_norm = inputs.zeros(rows, 0, dtype=torch.float32)
    place.ops.code_rows(x, no_norm, 0, coded, stream=place.stream)
    summed_rows.code(x, expected)
    assert torch.equal(coded.view(torch.uint8), expected.view(torch.uint8))
    smallest = x.float().abs().amax(dim=1, keepdim=True) * 2**-18  # half a step near zero
    bound = (x.float().abs() / 16).maximum(smallest)
    assert (summed_rows.decode(coded, rows) - x.float()).abs().le(bound).all()


def test_a_value_that_is_no_number_makes_none_of_its_row(place, inputs):
    """Else it would be a plausible number, and nobody would see it in the logits."""
    x = inputs.normal(3, 384)
    x[1, 200] = torch.nan
    coded = _empty(inputs, 3, 384)
    no_norm = inputs.zeros(3, 0, dtype=torch.float32)
    place.ops.code_rows(x, no_norm, 0, coded, stream=place.stream)
    assert summed_rows.decode(coded, 3).isnan().all(dim=1).tolist() == [False, True, False]


def test_the_norm_goes_into_the_scales(place, inputs):
    x, squares = inputs.normed(19, 1280)
    coded, without = (_empty(inputs, 19, 1280) for _ in range(2))
    place.ops.code_rows(x, squares, EPSILON, coded, stream=place.stream)
    summed_rows.code(x, without)
    norms = torch.rsqrt(squares.sum(1, keepdim=True) / 1280 + EPSILON)
    expected = norms * summed_rows.decode(without, 19)
    torch.testing.assert_close(summed_rows.decode(coded, 19), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_a_lane_meets_the_activations_of_its_nibbles(name):
    """A product of k = 32, as PTX lays out wgmma's operands, over bytes as they lie in memory."""
    torch.manual_seed(3)
    matrix, x = torch.randn(16, 128), torch.randn(5, 128, dtype=torch.bfloat16)
    packing = PACKINGS[name]
    codes, scales, *zeros = packing.quantise(matrix)
    unit = packing.pack(codes, scales, *zeros, tiles.plain_order(16)).flatten()
    coded = torch.zeros(summed_rows.shape_of(5, 128), dtype=torch.float8_e4m3fn)
    summed_rows.code(x, coded)
    lanes = unit[:1024].view(2, 8, 4, 2, 2, 4)  # run, g, t, half, word, byte
    nibbles = torch.stack([lanes & 15, lanes >> 4])  # those of k 0 to 15, and behind them
    a = nibbles.permute(1, 5, 4, 2, 0, 3, 6).reshape(4, 16, 32)
    b = coded[0, :5].view(5, 4, 32).transpose(0, 1)
    numbers = [part.contiguous().view(torch.float8_e4m3fn).float() for part in (a, b)]
    product = torch.bmm(numbers[0], numbers[1].transpose(1, 2)).sum(0)
    sums = coded[1, :5].contiguous().view(torch.bfloat16).view(5, 2, 32).float().sum(1)[:, 0]
    zero = zeros[0].float() if zeros else 8.0
    row_scales = coded[2].contiguous().view(torch.float32).flatten()[:5] / 2**-9
    expected = packing.dequantise(codes, scales, *zeros) @ summed_rows.decode(coded, 5).T
    torch.testing.assert_close((product + zero * sums) * scales.float() * row_scales, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 128), (80, 640), (9104, 1152), (1040, 4224)])
def test_summed_tokens_are_added_to_hidden(hopper, name, tokens, rows, columns):
    inputs = Inputs(hopper)
    matrix = inputs.normal(rows, columns, scale=columns**-0.5)
    arguments = {
        "input": _coded(inputs, inputs.normal(tokens, columns)),
        "weights": _packed(name, matrix, tiles.plain_order(rows)),
        **inputs.new_state(tokens, rows),
    }
    outputs = ["hidden", "x", "sum_squares"]
    bounds = {"hidden": CLOSE, "sum_squares": {"rtol": 1e-2, "atol": 1e-2}}
    check(hopper, "project_residual", arguments, outputs, bounds)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("hidden", "inner"), [(128, 8), (640, 88), (640, 9088)])
def test_summed_tokens_pass_swiglu(hopper, name, tokens, hidden, inner):
    inputs = Inputs(hopper)
    x, squares = inputs.normed(tokens, hidden)
    matrix = inputs.normal(2 * inner, hidden, scale=hidden**-0.5)
    arguments = {
        "x": _coded(inputs, x, torch.rsqrt(squares.sum(1, keepdim=True) / hidden + EPSILON)),
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(name, matrix, tiles.gate_up_order(2 * inner)),
        "out": inputs.unwritten(tokens, inner),
    }
    check(hopper, "project_gate_up", arguments, ["out"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64)])
def test_summed_tokens_are_rotated_and_appended(
    hopper, name, tokens, query_heads, kv_heads, head_dim
):
    inputs = Inputs(hopper)
    x, squares = inputs.normed(tokens, 384)
    pages = inputs.pages(tokens, per_sequence=3)
    rows = (query_heads + 2 * kv_heads) * head_dim
    matrix = inputs.normal(rows, 384, scale=384**-0.5)
    arguments = {
        "x": _coded(inputs, x),
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(name, matrix, tiles.qkv_order(rows, head_dim)),
        **inputs.appended(pages, query_heads, kv_heads, head_dim),
    }
    check(hopper, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


def _packed(name, matrix, order):
    packing = PACKINGS[name]
    return packing.pack(*packing.quantise(matrix), order.to(matrix.device))


def _empty(inputs, rows, columns):
    shape = summed_rows.shape_of(rows, columns)
    return torch.zeros(shape, dtype=torch.uint8, device=inputs.device).view(torch.float8_e4m3fn)


def _coded(inputs, x, factors=1.0):
    coded = _empty(inputs, *x.shape)
    summed_rows.code(x, coded, factors)
    return coded
