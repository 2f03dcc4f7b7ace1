"""Activations of eight bits: their codes, and the products that tensor cores make of them."""

import pytest
import torch
from openinference_engine import coded_groups, coded_rows, tiles
from openinference_engine.activation_codes import CODE_TYPES, rounded
from openinference_engine.packings import PACKINGS

from tests.gpu.op_checks import EPSILON, Inputs, check

KINDS = {"fp8": coded_rows, "int8": coded_groups}  # by the weights they meet
MANY_TOKENS = [0, 1, 17, 32, 33, 100, 129, 300]
CLOSE = {"rtol": 1e-3, "atol": 1e-3}  # e4m3 adds up with fewer bits than float32 within 128 columns


@pytest.fixture
def inputs(place):
    return Inputs(place)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("rows", "columns"), [(0, 384), (1, 128), (3, 384), (67, 1152), (5, 11008)]
)
def test_codes_are_what_the_reference_makes(place, inputs, name, rows, columns):
    x = inputs.normal(rows, columns)
    x[:, :16] *= 300  # int8 has one scale for each 128 columns, whatever is beside them
    x[:1, :128] = 0
    coded, expected = (_empty(inputs, rows, columns, name) for _ in range(2))
    _code(place, x, inputs.zeros(rows, 0, dtype=torch.float32), coded)
    KINDS[name].code(x, expected)
    assert torch.equal(coded.view(torch.uint8), expected.view(torch.uint8))
    if name == "int8":
        largest = x.float().view(rows, columns // 128, 128).abs().amax(dim=2)
        bound = largest.repeat_interleave(128, dim=1) / 253
    else:
        smallest = x.float().abs().amax(dim=1, keepdim=True) * 2**-18  # half a step near zero
        bound = (x.float().abs() / 16).maximum(smallest)
    assert (KINDS[name].decode(coded, rows) - x.float()).abs().le(bound).all()


@pytest.mark.parametrize("name", KINDS)
def test_a_value_that_is_no_number_makes_none_of_what_shares_its_scale(place, inputs, name):
    """Else it would be a plausible number, and nobody would see it in the logits."""
    x = inputs.normal(3, 384)
    x[1, 200] = torch.nan
    coded = _empty(inputs, 3, 384, name)
    _code(place, x, inputs.zeros(3, 0, dtype=torch.float32), coded)
    expected = torch.zeros(3, 384, dtype=torch.bool)
    expected[1, slice(128, 256) if name == "int8" else slice(None)] = True
    assert torch.equal(KINDS[name].decode(coded, 3).isnan().cpu(), expected)


@pytest.mark.parametrize("name", KINDS)
def test_the_norm_goes_into_the_scales(place, inputs, name):
    x, squares = inputs.normed(19, 1280)
    coded = _empty(inputs, 19, 1280, name)
    _code(place, x, squares, coded, EPSILON)
    norms = torch.rsqrt(squares.sum(1, keepdim=True) / 1280 + EPSILON)
    expected = norms * rounded(x, CODE_TYPES[name], 128 if name == "int8" else 1280)
    torch.testing.assert_close(KINDS[name].decode(coded, 19), expected)


@pytest.mark.parametrize("name", KINDS)
def test_a_lane_meets_the_activations_of_its_weights(name):
    """A product of k = 32, as PTX lays out wgmma's operands, over bytes as they lie in memory."""
    torch.manual_seed(3)
    matrix, x = torch.randn(16, 128), torch.randn(5, 128, dtype=torch.bfloat16)
    packing = PACKINGS[name]
    codes, scales = packing.quantise(matrix)
    unit = packing.pack(codes, scales, tiles.plain_order(16)).view(torch.uint8).flatten()
    kind, dtype = KINDS[name], CODE_TYPES[name]
    coded = torch.zeros(kind.shape_of(5, 128), dtype=dtype)
    kind.code(x, coded)
    lanes = unit[:2048].view(4, 8, 4, 4, 4)  # run, g, t, word, byte
    a = torch.empty(4, 16, 32, dtype=torch.uint8)
    for word, (half, first) in enumerate([(0, 0), (0, 16), (1, 0), (1, 16)]):
        rows = slice(half * 8, half * 8 + 8)
        a[:, rows, first : first + 16] = lanes[:, :, :, word].reshape(4, 8, 16)
    b = coded.view(torch.uint8).flatten()[: 5 * 128].view(5, 4, 32).transpose(0, 1)
    numbers = [part.contiguous().view(dtype).float() for part in (a, b)]
    product = torch.bmm(numbers[0], numbers[1].transpose(1, 2)).sum(0)
    row_scales = coded.view(torch.uint8).flatten()[8 * 128 :].view(torch.float32)[:5]
    expected = packing.dequantise(codes, scales) @ kind.decode(coded, 5).T
    torch.testing.assert_close(product * scales.float() * row_scales, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 128), (80, 640), (9104, 1152), (1040, 4224)])
def test_coded_tokens_are_added_to_hidden(hopper, name, tokens, rows, columns):
    inputs = Inputs(hopper)
    matrix = inputs.normal(rows, columns, scale=columns**-0.5)
    arguments = {
        "input": _coded(inputs, inputs.normal(tokens, columns), name),
        "weights": _packed(name, matrix, tiles.plain_order(rows)),
        **inputs.new_state(tokens, rows),
    }
    outputs = ["hidden", "x", "sum_squares"]
    bounds = {"hidden": CLOSE, "sum_squares": {"rtol": 1e-2, "atol": 1e-2}}
    check(hopper, "project_residual", arguments, outputs, bounds)


@pytest.mark.gpu
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("hidden", "inner"), [(128, 8), (640, 88), (640, 9088)])
def test_coded_tokens_pass_swiglu(hopper, name, tokens, hidden, inner):
    inputs = Inputs(hopper)
    x, squares = inputs.normed(tokens, hidden)
    matrix = inputs.normal(2 * inner, hidden, scale=hidden**-0.5)
    arguments = {
        "x": _coded(inputs, x, name),
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(name, matrix, tiles.gate_up_order(2 * inner)),
        "out": inputs.unwritten(tokens, inner),
    }
    check(hopper, "project_gate_up", arguments, ["out"])


@pytest.mark.gpu
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("tokens", MANY_TOKENS)
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64)])
@pytest.mark.parametrize("is_normed", [False, True])
def test_coded_tokens_are_rotated_and_appended(
    hopper, name, tokens, query_heads, kv_heads, head_dim, is_normed
):
    """Heads that are normed before, too."""
    inputs = Inputs(hopper)
    x, squares = inputs.normed(tokens, 384)
    pages = inputs.pages(tokens, per_sequence=3)
    rows = (query_heads + 2 * kv_heads) * head_dim
    matrix = inputs.normal(rows, 384, scale=384**-0.5)
    order = tiles.plain_order(rows) if is_normed else tiles.qkv_order(rows, head_dim)
    arguments = {
        "x": _coded(inputs, x, name),
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": _packed(name, matrix, order),
        **inputs.appended(pages, query_heads, kv_heads, head_dim),
    }
    if is_normed:
        arguments["norms"] = inputs.normal(2, head_dim)
        arguments["sums"] = inputs.unwritten(tokens, rows, dtype=torch.float32)
    op = "project_normed_qkv" if is_normed else "project_qkv"
    check(hopper, op, arguments, ["query", "key_cache", "value_cache"])


def _packed(name, matrix, order):
    return PACKINGS[name].pack(*PACKINGS[name].quantise(matrix), order)


def _empty(inputs, rows, columns, name):
    shape = KINDS[name].shape_of(rows, columns)
    return torch.zeros(shape, dtype=torch.uint8, device=inputs.device).view(CODE_TYPES[name])


def _code(place, x, squares, coded, epsilon=0.0):
    op = place.ops.code_groups if coded.dtype == torch.int8 else place.ops.code_rows
    op(x, squares, epsilon, coded, stream=place.stream)


def _coded(inputs, x, name):
    coded = _empty(inputs, *x.shape, name)
    KINDS[name].code(x, coded)
    return coded
