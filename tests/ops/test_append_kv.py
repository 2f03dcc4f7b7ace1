"""Keys and values lie in a paged cache as the reference puts them there, to the bit."""

import pytest
import torch

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.ops import cpu, reference

from tests.ops.paged import CODED, HEAD_DIM, KV_HEADS, NUM_BLOCKS, Paged, random_heads


@pytest.mark.parametrize("dtype", CPU_FORMATS)
def test_appended_positions_are_where_the_reference_puts_them(dtype):
    paged, expected = Paged(dtype=dtype), Paged(dtype=dtype)
    _, key, value = random_heads(37)
    slots = torch.randperm(NUM_BLOCKS * 16)[:37]

    cpu.append_kv(key, value, paged.cache, slots)
    reference.append_kv(key, value, expected.cache, slots)

    assert_same_bits(paged.cache, expected.cache)


@pytest.mark.parametrize("dtype", CODED)
def test_vectors_of_every_size_are_rounded_as_the_reference_rounds(dtype):
    """From those whose scale is 0 in half precision to those near its end, with zeros and ties."""
    paged, expected = Paged(dtype=dtype), Paged(dtype=dtype)
    sizes = 10.0 ** torch.arange(-12, 5).repeat_interleave(4)
    key, value = (torch.randn(len(sizes), KV_HEADS, HEAD_DIM) * sizes[:, None, None] for _ in "kv")
    key[:, 0], value[:, 0] = 0, (torch.arange(HEAD_DIM) / 4 - 7.5)
    slots = torch.arange(len(sizes))

    cpu.append_kv(key, value, paged.cache, slots)
    reference.append_kv(key, value, expected.cache, slots)

    assert_same_bits(paged.cache, expected.cache)


def test_slot_outside_the_cache_is_refused():
    paged = Paged()
    _, key, value = random_heads(1)

    with pytest.raises(IndexError, match="slots: 1024 is outside 0 to 1023"):
        cpu.append_kv(key, value, paged.cache, torch.tensor([1024]))


def assert_same_bits(found, expected):
    for one, other in ((found.keys, expected.keys), (found.values, expected.values)):
        assert torch.equal(one.codes.view(torch.uint8), other.codes.view(torch.uint8))
        assert torch.equal(one.numbers.view(torch.int16), other.numbers.view(torch.int16))
