"""Quantised and float weights on the CPU kernels: right, and the same bits in every company."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.ops import cpu, reference

BLOCK_FORMATS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
FLOAT_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Nothing random outlives an example, and a first call may start threads.
FEW = settings(
    max_examples=settings.default.max_examples // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def quantised(x):
    """What the kernel makes of its input, in float64: int8 codes times a scale per 32."""
    groups = x.view(len(x), -1, 32)
    bound = groups.abs().amax(-1, keepdim=True)
    codes = torch.where(bound > 0, groups * (127.0 / bound), 0).round()
    return (codes.double() * (bound / 127.0).double()).view(x.shape)


def float_rows(values, dtype):
    return values.to(dtype).view(torch.uint8).numpy()


@pytest.mark.parametrize("name", BLOCK_FORMATS)
@pytest.mark.parametrize("outputs", [1, 16, 17, 100])
def test_quantised_product_is_that_of_the_quantised_input(name, outputs, random_blocks, each_isa):
    """Integers are exact, so only the float32 sum over groups rounds."""
    stored = random_blocks(name, outputs, 512)
    weights = reference.pack(name, [stored], 512).double()
    x = torch.randn(5, 512)

    found = cpu.linear(x, cpu.pack(name, [stored], 512))

    expected = quantised(x) @ weights.T
    # Each of 16 groups adds at most 4 roundings of 2⁻²⁴; K formats multiply two scales before.
    # Where codes have an offset or a minimum, terms are larger than the products they make up.
    terms = x.abs().double() @ (weights.abs() + weights.abs().amax()).T
    assert ((found - expected).abs() <= 5e-6 * terms).all()


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_quantised_product_is_near_the_reference(name, random_blocks):
    """An input moves by half a step at most: 1/254 of the largest of its 32 neighbours."""
    stored = random_blocks(name, 48, 768)
    x = torch.randn(9, 768)

    found = cpu.linear(x, cpu.pack(name, [stored], 768))

    expected = reference.linear(x, reference.pack(name, [stored], 768))
    steps = x.view(9, -1, 32).abs().amax(-1, keepdim=True).expand(-1, -1, 32).reshape(9, -1) / 254
    bound = steps @ reference.pack(name, [stored], 768).abs().T
    assert ((found - expected).abs() <= bound * 1.001 + 1e-5).all()


@pytest.mark.parametrize("name", FLOAT_FORMATS)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (16, 64), (33, 77), (100, 513)])
def test_float_product_is_near_the_exact_one(name, outputs, inputs, each_isa):
    values, x = torch.randn(outputs, inputs), torch.randn(11, inputs)
    stored = float_rows(values, FLOAT_FORMATS[name])

    found = cpu.linear(x, cpu.pack(name, [stored], inputs))

    exact_weights = reference.pack(name, [stored], inputs).double()
    exact = x.double() @ exact_weights.T
    bound = inputs * 2**-24 * (x.double().abs() @ exact_weights.abs().T)
    assert ((found - exact).abs() <= bound).all()


@pytest.mark.parametrize("name", [*BLOCK_FORMATS, *FLOAT_FORMATS])
def test_instruction_sets_agree_to_the_bit(name, random_blocks, run_with):
    stored = (
        random_blocks(name, 50, 512)
        if name in BLOCK_FORMATS
        else float_rows(torch.randn(50, 512), FLOAT_FORMATS[name])
    )
    weight, x = cpu.pack(name, [stored], 512), torch.randn(13, 512)
    run_with(isa="portable")
    portable = cpu.linear(x, weight)
    run_with()

    assert torch.equal(cpu.linear(x, weight), portable)


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "Q8_0", "F32"])
@given(rows=st.integers(1, 40), data=st.data(), threads=st.integers(1, 4))
@FEW
def test_row_has_the_same_bits_in_every_batch(name, rows, data, threads, random_blocks, run_with):
    """Alone on one thread, or at any place of any batch on any number of threads."""
    place = data.draw(st.integers(0, rows - 1))
    stored = (
        float_rows(torch.randn(72, 256), torch.float32)
        if name == "F32"
        else random_blocks(name, 72, 256)
    )
    weight, x = cpu.pack(name, [stored], 256), torch.randn(rows, 256)
    run_with(threads=1)
    alone = cpu.linear(x[place : place + 1], weight)
    run_with(threads=threads)

    assert torch.equal(cpu.linear(x, weight)[place], alone[0])


def test_stacked_matrices_are_one_weight(random_blocks):
    first, second = random_blocks("Q4_1", 20, 64, seed=1), random_blocks("Q4_1", 12, 64, seed=2)
    x = torch.randn(3, 64)

    stacked = cpu.linear(x, cpu.pack("Q4_1", [first, second], 64))

    parts = [cpu.linear(x, cpu.pack("Q4_1", [part], 64)) for part in (first, second)]
    assert torch.equal(stacked, torch.cat(parts, dim=1))


@pytest.mark.parametrize("name", ["Q4_1", "F32"])
def test_bias_is_added(name, random_blocks):
    stored = (
        random_blocks(name, 20, 64)
        if name == "Q4_1"
        else float_rows(torch.randn(20, 64), torch.float32)
    )
    weight, x, bias = cpu.pack(name, [stored], 64), torch.randn(3, 64), torch.randn(20)

    assert torch.equal(cpu.linear(x, weight, bias), cpu.linear(x, weight) + bias)


@pytest.mark.parametrize("name", ["Q4_1", "F32"])
def test_no_rows_give_no_rows(name, random_blocks):
    stored = (
        random_blocks(name, 20, 64)
        if name == "Q4_1"
        else float_rows(torch.randn(20, 64), torch.float32)
    )

    assert cpu.linear(torch.empty(0, 64), cpu.pack(name, [stored], 64)).shape == (0, 20)


def test_zeros_give_zeros(random_blocks):
    """A group of zeros has no scale to divide by."""
    weight = cpu.pack("Q4_1", [random_blocks("Q4_1", 20, 64)], 64)

    assert not cpu.linear(torch.zeros(2, 64), weight).any()


def test_not_a_number_stays_visible(random_blocks):
    weight = cpu.pack("Q8_0", [random_blocks("Q8_0", 20, 64)], 64)

    assert cpu.linear(torch.full((1, 64), torch.nan), weight).isnan().all()


@pytest.mark.parametrize("name", [*BLOCK_FORMATS, *FLOAT_FORMATS])
def test_embedding_rows_are_exactly_the_stored_weights(name, random_blocks):
    stored = (
        random_blocks(name, 50, 512)
        if name in BLOCK_FORMATS
        else float_rows(torch.randn(50, 512), FLOAT_FORMATS[name])
    )
    token_ids = torch.tensor([49, 0, 17, 17])

    found = cpu.embedding(token_ids, cpu.pack(name, [stored], 512))

    assert torch.equal(found, reference.embedding(token_ids, reference.pack(name, [stored], 512)))


def test_unknown_token_is_refused(random_blocks):
    weight = cpu.pack("Q8_0", [random_blocks("Q8_0", 20, 64)], 64)

    with pytest.raises(IndexError, match="token_ids: 20 is outside 0 to 19"):
        cpu.embedding(torch.tensor([3, 20]), weight)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 64, dtype=torch.float64), "x: is torch.float64; give torch.float32"),
        (torch.zeros(2, 32), r"x: has shape \(2, 32\); give \(any, 64\)"),
        (torch.zeros(64), r"x: has shape \(64,\); give \(any, 64\)"),
        (torch.zeros(64, 2).T, r"x: strides \(1, 2\) leave gaps inside a row"),
        (torch.zeros(2, 128)[:, ::2], r"x: strides \(128, 2\) leave gaps inside a row"),
    ],
)
def test_unfit_input_is_refused_by_name(x, message, random_blocks):
    weight = cpu.pack("Q4_1", [random_blocks("Q4_1", 20, 64)], 64)

    with pytest.raises(ValueError, match=message):
        cpu.linear(x, weight)


def test_rows_may_lie_apart(random_blocks):
    weight, wide = cpu.pack("Q4_1", [random_blocks("Q4_1", 20, 64)], 64), torch.randn(5, 200)

    assert torch.equal(
        cpu.linear(wide[:, 40:104], weight), cpu.linear(wide[:, 40:104].contiguous(), weight)
    )


def test_weight_must_fill_whole_blocks():
    with pytest.raises(ValueError, match="inputs: 48 is not a multiple of 32, the block of Q4_1"):
        cpu.pack("Q4_1", [np.zeros((2, 30), dtype=np.uint8)], 48)


def test_unknown_format_names_the_known_ones():
    with pytest.raises(ValueError, match="format Q3_K is unknown; known are F32, F16"):
        cpu.pack("Q3_K", [np.zeros((2, 110), dtype=np.uint8)], 256)
