"""Codes of keys and values, and attention over pages, against their references."""

import math

import pytest
import torch
from openinference_engine.kv_formats import CODED_FORMATS, CUDA_FORMATS
from openinference_engine.ops import cuda_cache
from openinference_engine.ops import cuda_reference as reference
from openinference_engine.ops.plan import NO_WINDOW

from tests.gpu.op_checks import check

coded = pytest.mark.parametrize("cache_format", CODED_FORMATS.values(), ids=CODED_FORMATS)
head_sizes = pytest.mark.parametrize("head_dim", [64, 128])


@coded
@head_sizes
@pytest.mark.parametrize("tokens", [0, 7])
def test_append_codes_writes_the_very_codes_of_the_reference(
    place, inputs, cache_format, head_dim, tokens
):
    kv_heads = 3
    table, blocks = inputs.pages(tokens, per_sequence=3)
    keys, values = inputs.caches(cache_format, blocks, kv_heads, head_dim)
    arguments = {
        "keys": inputs.normal(tokens, kv_heads, head_dim),
        "values": inputs.normal(tokens, kv_heads, head_dim, scale=1e-3),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": table,
        "key_cache": keys,
        "value_cache": values,
    }
    arguments["values"][:1, 0] = 0  # a scale of 0 is none
    arguments["values"][1:2, 0] = 1.5  # nor is there one between equal elements
    mine, theirs = ({name: tensor.clone() for name, tensor in arguments.items()} for _ in range(2))
    place.ops.append_codes(**mine, stream=place.stream)
    reference.append_codes(**theirs)
    for name in ("key_cache", "value_cache"):
        assert torch.equal(mine[name].view(torch.uint8), theirs[name].view(torch.uint8)), name


def test_append_codes_refuses_a_cache_without_codes(place, inputs):
    table, blocks = inputs.pages(2, per_sequence=1)
    vectors, cache = inputs.normal(2, 1, 64), inputs.normal(blocks * 16, 1, 64)
    positions = inputs.integers(0, 16, 2)
    with pytest.raises(ValueError, match="key_cache: dtype bfloat16, expected codes"):
        place.ops.append_codes(vectors, vectors, positions, table, cache, cache, place.stream)


@coded
@head_sizes
@pytest.mark.parametrize("kv_heads", [1, 3, 10])
def test_expand_pages_writes_the_very_bits_of_the_reference(
    place, inputs, cache_format, head_dim, kv_heads
):
    pages = 5
    table, blocks = inputs.pages(1, per_sequence=pages)
    caches = list(inputs.caches(cache_format, blocks, kv_heads, head_dim))
    positions = inputs.integers(0, 1, 16 * pages) + torch.arange(16 * pages).to(place.device)
    reference.append_codes(
        inputs.normal(16 * pages, kv_heads, head_dim),
        inputs.normal(16 * pages, kv_heads, head_dim, scale=1e-3),
        positions,
        table.repeat(16 * pages, 1),
        *caches,
    )
    names = ("keys", "values")
    mine, theirs = (
        [inputs.unwritten(16 * pages + 32, kv_heads, head_dim) for _ in names] for _ in range(2)
    )
    place.ops.expand_pages(*caches, table[0], *mine, place.stream)
    reference.expand_pages(*caches, table[0], *theirs)
    for name, own, other in zip(names, mine, theirs, strict=True):
        assert torch.equal(own.view(torch.int16), other.view(torch.int16)), name
        assert own[16 * pages :].isnan().all(), name


def test_expand_pages_refuses_what_it_cannot_expand(place, inputs):
    coded = list(inputs.caches(CODED_FORMATS["int8"], 4, 1, 64))
    plain, pages = inputs.normal(64, 1, 64), inputs.integers(0, 4, 5)
    with pytest.raises(ValueError, match="key_cache: dtype bfloat16, expected codes"):
        place.ops.expand_pages(plain, plain, pages, plain, plain, place.stream)
    with pytest.raises(ValueError, match="keys: 64 slots for 5 pages of 16"):
        place.ops.expand_pages(*coded, pages, plain, plain, place.stream)


grids = pytest.mark.parametrize(("splits", "warps"), [(1, 16), (3, 8), (6, 4)])


@grids
@head_sizes
@pytest.mark.parametrize("group", [1, 3, 10])
@pytest.mark.parametrize("tokens", [0, 6])
def test_attend_equals_softmax_over_the_pages(
    place, inputs, splits, warps, head_dim, group, tokens
):
    kv_heads = 2
    table, blocks = inputs.pages(tokens, per_sequence=40)
    keys, values = (inputs.normal(blocks * 16, kv_heads, head_dim) for _ in range(2))
    for token, position in enumerate(POSITIONS[:tokens]):  # what no token wrote may hold anything
        unwritten = reference.slots_of(table[token])[position + 1 :]
        keys[unwritten] = values[unwritten] = math.nan
    arguments = _attention(inputs, head_dim, keys, values, table, group * kv_heads, (splits, warps))
    after = check(place, "attend", arguments, ["out"])
    assert not after["counters"].any()  # ready for the next layer


@coded
@head_sizes
def test_attend_reads_codes(place, inputs, cache_format, head_dim):
    kv_heads = 2
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=40)
    keys, values = inputs.caches(cache_format, blocks, kv_heads, head_dim)
    for token, position in enumerate(POSITIONS):
        slots = reference.slots_of(table[token])[: position + 1]
        for cache in (keys, values):
            cuda_cache.append(cache, slots, inputs.normal(len(slots), kv_heads, head_dim))
    arguments = _attention(inputs, head_dim, keys, values, table, 3 * kv_heads, grid=(3, 8))
    check(place, "attend", arguments, ["out"])


POSITIONS = [-1, 0, 15, 16, 150, 639]


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 100, 640, NO_WINDOW])
@pytest.mark.parametrize("cache_format", CUDA_FORMATS.values(), ids=CUDA_FORMATS)
def test_attend_reads_no_more_than_the_window(place, inputs, cache_format, window):
    """Of the first page that is seen, too: what lies before may be another's."""
    kv_heads, head_dim = 2, 64
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=40)
    caches = list(inputs.caches(cache_format, blocks, kv_heads, head_dim))
    for token, position in enumerate(POSITIONS):
        seen = slice(max(position + 1 - window, 0), position + 1)
        slots = reference.slots_of(table[token])[seen]
        for cache in caches:
            vectors = inputs.normal(len(slots), kv_heads, head_dim)
            if cache_format.is_coded:
                cuda_cache.append(cache, slots, vectors)
            else:
                cache[slots] = vectors
    for grid in ((1, 4), (4, 8), (16, 16)):
        arguments = _attention(inputs, head_dim, *caches, table, 3 * kv_heads, grid, window)
        after = check(place, "attend", arguments, ["out"])
        assert not after["counters"].any()


def test_attend_refuses_a_window_without_positions(place, inputs):
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=1)
    cache = inputs.normal(blocks * 16, 1, 64)
    arguments = _attention(inputs, 64, cache, cache, table, 1, grid=(1, 4), window=0)
    with pytest.raises(ValueError, match="window: 0, need at least 1"):
        place.ops.attend(**arguments, stream=place.stream)


def _attention(inputs, head_dim, keys, values, table, query_heads, grid, window=NO_WINDOW):
    tokens, (splits, warps) = len(table), grid
    parts = tokens * query_heads * splits * (head_dim + 2)
    return {
        "query": inputs.normal(tokens, query_heads, head_dim),
        "key_cache": keys,
        "value_cache": values,
        "positions": torch.tensor(POSITIONS[:tokens], dtype=torch.int32, device=inputs.device),
        "block_table": table,
        "scale": head_dim**-0.5,
        "window": window,
        "splits": splits,
        "warps": warps,
        "workspace": inputs.unwritten(parts, dtype=torch.float32),
        "counters": inputs.zeros(tokens * query_heads),
        "out": inputs.unwritten(tokens, query_heads, head_dim),
    }
