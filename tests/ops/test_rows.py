"""Normalisation, gate and rotation: right on odd sizes, and a row on its own everywhere."""

import pytest
import torch

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.ops import cpu, reference

ODD_SIZES = [1, 2, 15, 16, 17, 64, 576, 1001]


@pytest.mark.parametrize("columns", ODD_SIZES)
def test_rms_norm_is_near_the_reference(columns, each_isa):
    """Float32 throughout; only the order of the sum of squares differs."""
    x, weight = torch.randn(7, columns), torch.randn(columns)

    torch.testing.assert_close(
        cpu.rms_norm(x, weight, 1e-5), reference.rms_norm(x, weight, 1e-5), rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize("columns", ODD_SIZES)
def test_silu_mul_is_near_the_reference(columns, each_isa):
    """Our exponential is within 2 units in the last place; far out it is 0 or bounded."""
    gate_up = torch.cat([torch.randn(7, columns) * 30, torch.randn(7, columns)], dim=1)

    torch.testing.assert_close(
        cpu.silu_mul(gate_up), reference.silu_mul(gate_up), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("gate", [-1e4, -100.0, -88.0, 0.0, 88.0, 1e4])
def test_silu_is_defined_everywhere(gate, each_isa):
    gate_up = torch.tensor([[gate, 1.0]])

    torch.testing.assert_close(
        cpu.silu_mul(gate_up), reference.silu_mul(gate_up), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("head_dim", [2, 8, 34, 64, 128])
def test_rotation_is_near_the_reference(head_dim, each_isa):
    x, angles = torch.randn(5, 3, head_dim), torch.randn(5, head_dim // 2)
    expected = x.clone()
    reference.rotate(expected, angles.cos(), angles.sin())

    cpu.rotate(x, angles.cos(), angles.sin())

    torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)


def test_rotation_leaves_other_heads_alone():
    heads = torch.randn(4, 5, 8)
    before, angles = heads.clone(), torch.randn(4, 4)

    cpu.rotate(heads[:, :3], angles.cos(), angles.sin())

    assert torch.equal(heads[:, 3:], before[:, 3:])
    assert not torch.equal(heads[:, :3], before[:, :3])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("experts", "chosen"), [(1, 1), (6, 2), (16, 16), (60, 4), (128, 8)])
def test_routing_is_near_the_reference(experts, chosen, normalise, each_isa):
    """The same experts; shares to the few roundings of an exponential, a sum and a division."""
    logits = torch.randn(9, experts) * 3
    ids, shares = cpu.route(logits, chosen, normalise)
    expected_ids, expected = reference.route(logits, chosen, normalise)

    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(shares, expected, rtol=2e-6, atol=1e-9)


def test_first_of_equal_experts_is_chosen(each_isa):
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]])

    assert cpu.route(logits, 3, True)[0].tolist() == [[1, 2, 4], [0, 1, 2]]


def test_routing_has_the_same_bits_in_every_batch(run_with):
    logits = torch.randn(100, 60)
    run_with(threads=1, isa="portable")
    alone = cpu.route(logits[70:71], 8, False)
    run_with(threads=3)
    ids, shares = cpu.route(logits, 8, False)

    assert torch.equal(ids[70], alone[0][0])
    assert torch.equal(shares[70], alone[1][0])


def test_more_experts_than_there_are_cannot_be_chosen():
    with pytest.raises(IndexError, match="chosen: 5 is outside 0 to 4"):
        cpu.route(torch.randn(1, 4), 5, True)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_row_has_the_same_bits_in_every_batch(rows, threads, run_with):
    x, weight = torch.randn(rows, 1536), torch.randn(1536)
    run_with(threads=1, isa="portable")
    alone = cpu.silu_mul(cpu.rms_norm(x[-1:], weight, 1e-5))
    run_with(threads=threads)

    assert torch.equal(cpu.silu_mul(cpu.rms_norm(x, weight, 1e-5))[-1], alone[0])


def test_no_rows_give_no_rows():
    assert cpu.rms_norm(torch.empty(0, 8), torch.ones(8), 1e-5).shape == (0, 8)
    assert cpu.silu_mul(torch.empty(0, 8)).shape == (0, 4)


def test_odd_gate_is_refused():
    with pytest.raises(ValueError, match="gate_up: 7 columns are no pair of halves"):
        cpu.silu_mul(torch.zeros(2, 7))


def test_gaps_in_a_weight_are_refused():
    with pytest.raises(ValueError, match=r"weight: strides \(2,\) leave gaps"):
        cpu.rms_norm(torch.zeros(2, 8), torch.zeros(16)[::2], 1e-5)
