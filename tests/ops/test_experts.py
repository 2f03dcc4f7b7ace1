"""The experts of a step in one operation: the bits of its products one by one, in every company."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.ops import cpu, reference

HIDDEN, INNER, EXPERTS, CHOSEN = 256, 288, 6, 3
SHAPES = [(INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)]  # of gates, ups, downs
FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16}
FORMATS = [
    ("F32", "F32", "F32"),
    ("Q4_0", "Q4_0", "Q4_0"),
    ("Q4_0", "F32", "BF16"),
    ("BF16", "F32", "Q8_0"),
]


@pytest.fixture(params=FORMATS, ids="-".join)
def matrices(request, random_blocks):
    """Gates, ups and downs of all experts, as they are stored: (format, rows, inputs) of each."""

    def stored(name, shape, seed):
        if name not in FLOATS:
            return random_blocks(name, *shape, seed)
        values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 16
        return values.to(FLOATS[name]).view(torch.uint8).numpy()

    return [
        [(name, stored(name, shape, 10 * part + number), shape[1]) for number in range(EXPERTS)]
        for part, (name, shape) in enumerate(zip(request.param, SHAPES, strict=True))
    ]


def packed(operations, matrices):
    return [[operations.pack(name, [rows], n) for name, rows, n in part] for part in matrices]


def routed(rows):
    ids, shares = reference.route(torch.randn(rows, EXPERTS), CHOSEN, True)
    return torch.randn(rows, HIDDEN), ids.contiguous(), shares


@pytest.mark.parametrize("rows", [1, 2, 40])
def test_experts_are_the_sum_of_their_products(rows, matrices, each_isa):
    x, ids, shares = routed(rows)
    gates, ups, downs = packed(cpu, matrices)
    expected = torch.zeros(rows, HIDDEN)
    for number in range(EXPERTS):
        gate_up = torch.cat([cpu.linear(x, gates[number]), cpu.linear(x, ups[number])], dim=-1)
        result = cpu.linear(cpu.silu_mul(gate_up), downs[number])
        row, place = (ids == number).nonzero(as_tuple=True)
        expected[row] += shares[row, place, None] * result[row]

    found = cpu.experts(x, ids, shares, cpu.ExpertWeights(gates, ups, downs))

    assert torch.equal(found, expected)


def test_float_experts_are_those_of_the_reference():
    """Sums of 256 and 288 products in another order."""
    x, ids, shares = routed(9)
    parts = [[torch.randn(shape) / 16 for _ in range(EXPERTS)] for shape in SHAPES]
    stored = [
        [("F32", matrix.view(torch.uint8).numpy(), matrix.shape[1]) for matrix in part]
        for part in parts
    ]

    found = cpu.experts(x, ids, shares, cpu.ExpertWeights(*packed(cpu, stored)))

    expected = reference.experts(x, ids, shares, reference.ExpertWeights(*parts))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_row_has_the_same_bits_in_every_batch(rows, threads, matrices, run_with):
    x, ids, shares = routed(rows)
    weights = cpu.ExpertWeights(*packed(cpu, matrices))
    run_with(threads=1, isa="portable")
    alone = cpu.experts(x[-1:], ids[-1:], shares[-1:], weights)
    run_with(threads=threads)

    assert torch.equal(cpu.experts(x, ids, shares, weights)[-1], alone[0])


def test_expert_that_does_not_exist_is_refused(matrices):
    x, ids, shares = routed(2)
    ids[1, 0] = EXPERTS

    with pytest.raises(IndexError, match="ids: 6 is none of 6 experts"):
        cpu.experts(x, ids, shares, cpu.ExpertWeights(*packed(cpu, matrices)))


def test_matrices_that_do_not_fit_together_are_refused():
    matrix = cpu.pack("F32", [torch.zeros(8, 4).view(torch.uint8).numpy()], 4)

    with pytest.raises(ValueError, match="a matrix of expert 0 does not fit"):
        cpu.ExpertWeights([matrix], [matrix], [matrix])
