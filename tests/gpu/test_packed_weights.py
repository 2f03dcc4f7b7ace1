"""Packed weights: the error of rounding, and an order in memory that loses nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openinference_engine import fp8, int4, int4_zero, int8, tiles
from openinference_engine.packings import PACKINGS, packing_of

packings = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)


def random_matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_four_bits_move_no_weight_by_more_than_a_step():
    matrix = random_matrix(32, 512)
    codes, scales = int4.quantise(matrix)
    steps = scales.float().abs().repeat_interleave(128, dim=1)
    error = (int4.dequantise(codes, scales) - matrix).abs() / steps
    assert error.max() < 1.1  # +8 is cut to +7; elsewhere half a step, and the scale's own rounding
    assert error.median() < 0.5


def test_eight_bits_keep_three_bits_of_mantissa():
    matrix = random_matrix(32, 512)
    codes, scales = fp8.quantise(matrix)
    # half a unit of the mantissa, or half the smallest step where numbers are subnormal
    steps = scales.float().abs().repeat_interleave(128, dim=1) * 2**-9
    error = (fp8.dequantise(codes, scales) - matrix).abs()
    assert (error <= torch.maximum(matrix.abs() * 2**-4, steps / 2) * 1.01).all()


def test_whole_codes_of_eight_bits_move_no_weight_by_more_than_half_a_step():
    matrix = random_matrix(32, 512)
    codes, scales = int8.quantise(matrix)
    steps = scales.float().repeat_interleave(128, dim=1)
    error = (int8.dequantise(codes, scales) - matrix).abs() / steps
    assert error.max() < 0.8  # half a step, and 127 times the scale's own rounding of 2^-9


def test_a_zero_lets_four_bits_span_a_group_that_lies_on_one_side():
    matrix = random_matrix(32, 512).abs()
    errors = [
        (packing.dequantise(*packing.quantise(matrix)) - matrix).square().mean()
        for packing in (int4, int4_zero)
    ]
    assert errors[1] < errors[0] / 3  # twice as many codes where the values are


@packings
def test_group_of_zeros_stays_zero(packing):
    assert not packing.dequantise(*packing.quantise(torch.zeros(16, 128))).any()


@packings
@settings(max_examples=settings.default.max_examples // 5)
@given(num_tiles=st.integers(1, 4), groups=st.integers(1, 3), seed=st.integers(0, 99))
def test_packing_loses_nothing(packing, num_tiles, groups, seed):
    parts = packing.quantise(random_matrix(16 * num_tiles, 128 * groups, seed))
    order = torch.randperm(16 * num_tiles, generator=torch.Generator().manual_seed(seed))
    units = packing.pack(*parts, order)
    assert units.shape == (num_tiles, groups, packing.UNIT_BYTES)
    assert packing_of(units) is packing
    for again, part in zip(packing.unpack(units, order), parts, strict=True):
        assert torch.equal(again, part)


@pytest.mark.parametrize(
    "order", [tiles.plain_order(768), tiles.gate_up_order(768), tiles.qkv_order(768, 128)]
)
def test_every_row_is_in_one_tile(order):
    assert sorted(order.tolist()) == list(range(768))
