"""Four-bit weights: the error of rounding, and an order in memory that loses nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from openinference_engine import int4


def random_matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_rounding_moves_no_weight_by_more_than_a_step():
    matrix = random_matrix(32, 512)
    codes, scales = int4.quantise(matrix)
    steps = scales.float().abs().repeat_interleave(128, dim=1)
    error = (int4.dequantise(codes, scales) - matrix).abs() / steps
    assert error.max() < 1.1  # +8 is cut to +7; elsewhere half a step, and the scale's own rounding
    assert error.median() < 0.5


def test_group_of_zeros_stays_zero():
    assert not int4.dequantise(*int4.quantise(torch.zeros(16, 128))).any()


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_packing_loses_nothing(tiles, groups, seed):
    codes, scales = int4.quantise(random_matrix(16 * tiles, 128 * groups, seed))
    order = torch.randperm(16 * tiles, generator=torch.Generator().manual_seed(seed))
    units = int4.pack(codes, scales, order)
    assert units.shape == (tiles, groups, int4.UNIT_BYTES)
    again, scales_again = int4.unpack(units, order)
    assert torch.equal(again, codes)
    assert torch.equal(scales_again, scales)


@pytest.mark.parametrize(
    "order", [int4.plain_order(768), int4.gate_up_order(768), int4.qkv_order(768, 128)]
)
def test_every_row_is_in_one_tile(order):
    assert sorted(order.tolist()) == list(range(768))
