"""Attention over a paged cache: right, and the same bits however a prompt is cut."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.ops import cpu
from openinference_engine.ops.plan import NO_WINDOW, AttentionPlan

from tests.ops.paged import CODED, HEAD_DIM, NUM_BLOCKS, Paged, blocks_for, random_heads

HALF = settings(
    max_examples=settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("dtype", CODED)
@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_broken_vector_is_seen_to_be_broken(dtype, broken):
    """A code cannot be NaN, so its scale is: nothing that was computed from it looks sound."""
    query, key, value = random_heads(3)
    value[1, :, 5] = broken

    attended = Paged(dtype=dtype).attend(query, key, value, [([0], 0, 3)])

    assert attended[2].isnan().all()


@pytest.mark.parametrize("block_size", [1, 4, 16, 32, 48])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(9, 3, 64), (4, 4, 16), (8, 1, 40), (12, 1, 128), (2, 1, 7)]
)
def test_attention_is_near_the_reference(heads, kv_heads, head_dim, block_size, each_isa):
    """Float32 throughout; sums of up to 50 terms in another order, softmax weights sum to 1."""
    check_attention(heads, Paged(block_size, kv_heads, head_dim))


@pytest.mark.parametrize("dtype", CODED)
@pytest.mark.parametrize("block_size", [16, 48])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(9, 3, 64), (8, 1, 40), (12, 1, 128), (4, 4, 8)]
)
def test_codes_are_attended_as_what_they_stand_for(
    heads, kv_heads, head_dim, block_size, dtype, each_isa
):
    """The reference expands the same codes; scales then multiply elements instead of sums."""
    check_attention(heads, Paged(block_size, kv_heads, head_dim, dtype))


def check_attention(heads, paged):
    sizes, first = {"prompt": (0, 37), "chunk": (20, 13), "decode": (49, 1)}, 0
    kv_heads, head_dim, block_size = paged.kv_heads, paged.head_dim, paged.block_size
    chunks = []
    for start, count in sizes.values():
        if first + -(-(start + count) // block_size) > NUM_BLOCKS:
            break
        chunks.append((blocks_for(start + count, first, block_size), start, count))
        first += len(chunks[-1][0])
    for blocks, start, _ in chunks:  # what earlier steps have computed
        if start:
            paged.attend(*random_heads(start, heads, kv_heads, head_dim), [(blocks, 0, start)])
    query, key, value = random_heads(sum(c for _, _, c in chunks), heads, kv_heads, head_dim)

    found = paged.attend(query, key, value, chunks)

    torch.testing.assert_close(found, paged.expected(query, chunks), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", CPU_FORMATS)
def test_instruction_set_changes_no_bit(dtype, each_isa, run_with):
    inputs, chunks = random_heads(70), [(blocks_for(70, 3), 0, 70)]
    found = Paged(dtype=dtype).attend(*inputs, chunks)
    run_with(isa="portable")

    assert torch.equal(found, Paged(dtype=dtype).attend(*inputs, chunks))


@pytest.mark.parametrize("block_size", [4, 16, 48])
@pytest.mark.parametrize("window", [1, 5, 16, 40, 300])
def test_window_hides_what_lies_further_back(window, block_size, each_isa):
    paged, length = Paged(block_size), 150
    blocks = blocks_for(length, 0, block_size)
    inputs = random_heads(length)

    found = paged.attend(*inputs, [(blocks, 0, length)], window)

    expected = paged.expected(inputs[0], [(blocks, 0, length)], window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@given(
    cuts=st.sets(st.integers(1, 69), max_size=6),
    threads=st.integers(1, 3),
    window=st.sampled_from([NO_WINDOW, 3, 16, 33]),
    dtype=st.sampled_from(list(CPU_FORMATS)),
    isa=st.sampled_from(["", "portable"]),
)
@HALF
def test_prompt_has_the_same_bits_however_it_is_cut(cuts, threads, window, dtype, isa, run_with):
    """All at once on one portable thread, or in chunks, down to one token at a time."""
    query, key, value = random_heads(70)
    blocks = blocks_for(70, 3)
    run_with(threads=1, isa="portable")
    whole = Paged(dtype=dtype).attend(query, key, value, [(blocks, 0, 70)], window)
    run_with(threads=threads, isa=isa)
    paged, bounds = Paged(dtype=dtype), [0, *sorted(cuts), 70]

    parts = [
        paged.attend(query[a:b], key[a:b], value[a:b], [(blocks, a, b - a)], window)
        for a, b in pairwise(bounds)
    ]

    assert torch.equal(torch.cat(parts), whole)


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    dtype=st.sampled_from(list(CPU_FORMATS)),
    data=st.data(),
)
@HALF
def test_sequence_has_the_same_bits_in_every_batch(lengths, dtype, data, run_with):
    """Neighbours decode, prefill or come late; a sequence does not notice."""
    run_with()
    chosen = data.draw(st.integers(0, len(lengths) - 1))
    inputs = [random_heads(length) for length in lengths]
    chunks = [(blocks_for(length, 7 * i), 0, length) for i, length in enumerate(lengths)]
    alone = Paged(dtype=dtype).attend(*inputs[chosen], [chunks[chosen]])

    together = Paged(dtype=dtype).attend(
        *(torch.cat(parts) for parts in zip(*inputs, strict=True)), chunks
    )

    first = sum(lengths[:chosen])
    assert torch.equal(together[first : first + lengths[chosen]], alone)


def test_rows_of_a_wider_matrix_are_read_in_place():
    """Queries, keys and values come as columns of one projection."""
    heads, chunks = torch.randn(20, 15, HEAD_DIM), [(blocks_for(20, 0), 0, 20)]
    parts = heads.split([9, 3, 3], dim=1)

    found = Paged().attend(*parts, chunks)

    assert torch.equal(found, Paged().attend(*(part.contiguous() for part in parts), chunks))


def test_no_tokens_give_no_tokens():
    paged, empty = Paged(), torch.empty(0, dtype=torch.int32)
    plan = AttentionPlan(
        slots=torch.empty(0, dtype=torch.int64),
        starts=torch.zeros(1, dtype=torch.int32),
        lengths=empty,
        blocks=empty.view(0, 1),
    )
    query, key, value = random_heads(0)

    cpu.append_kv(key, value, paged.cache, plan.slots)

    assert cpu.paged_attention(query, paged.cache, plan).shape == (0, 9, 64)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (([NUM_BLOCKS], 0, 5), "plan.blocks: 64 is outside 0 to 63"),
        (([-1], 0, 5), "plan.blocks: -1 is outside 0 to 63"),
    ],
)
def test_block_outside_the_cache_is_refused(chunk, message):
    paged = Paged()

    with pytest.raises(IndexError, match=message):
        cpu.paged_attention(random_heads(5)[0], paged.cache, paged.plan([chunk]))


def test_sequence_longer_than_its_blocks_is_refused():
    paged = Paged()
    plan = paged.plan([([0], 0, 5)])
    plan.lengths[0] = 17

    with pytest.raises(IndexError, match=r"plan\.lengths: 17 is outside 0 to 16"):
        cpu.paged_attention(random_heads(5)[0], paged.cache, plan)
