"""Codes of keys and values, and attention over pages, against their references."""

import math

import pytest
import torch
from openinference_engine.kv_formats import CODED_FORMATS
from openinference_engine.ops import cuda_cache
from openinference_engine.ops import cuda_reference as reference

from tests.gpu.op_checks import check

coded = pytest.mark.parametrize("cache_format", CODED_FORMATS.values(), ids=CODED_FORMATS)
head_sizes = pytest.mark.parametrize("head_dim", [64, 128])


@coded
@head_sizes
def test_append_codes_writes_the_very_codes_of_the_reference(place, inputs, cache_format, head_dim):
    tokens, kv_heads = 7, 3
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
    arguments["values"][0, 0] = 0  # a scale of 0 is none
    arguments["values"][1, 0] = 1.5  # nor is there one between equal elements
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


grids = pytest.mark.parametrize(("splits", "warps"), [(1, 16), (3, 8), (6, 4)])


@grids
@head_sizes
@pytest.mark.parametrize("group", [1, 3, 10])
def test_attend_equals_softmax_over_the_pages(place, inputs, splits, warps, head_dim, group):
    kv_heads = 2
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=40)
    keys, values = (inputs.normal(blocks * 16, kv_heads, head_dim) for _ in range(2))
    for token, position in enumerate(POSITIONS):  # what no token wrote may hold anything
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
        for slot in reference.slots_of(table[token])[: position + 1].tolist():
            for cache in (keys, values):
                cuda_cache.append(cache, slot, inputs.normal(kv_heads, head_dim))
    arguments = _attention(inputs, head_dim, keys, values, table, 3 * kv_heads, grid=(3, 8))
    check(place, "attend", arguments, ["out"])


POSITIONS = [-1, 0, 15, 16, 150, 639]


def _attention(inputs, head_dim, keys, values, table, query_heads, grid):
    tokens, (splits, warps) = len(POSITIONS), grid
    parts = tokens * query_heads * splits * (head_dim + 2)
    return {
        "query": inputs.normal(tokens, query_heads, head_dim),
        "key_cache": keys,
        "value_cache": values,
        "positions": torch.tensor(POSITIONS, dtype=torch.int32, device=inputs.device),
        "block_table": table,
        "scale": head_dim**-0.5,
        "splits": splits,
        "warps": warps,
        "workspace": inputs.unwritten(parts, dtype=torch.float32),
        "counters": inputs.zeros(tokens * query_heads),
        "out": inputs.unwritten(tokens, query_heads, head_dim),
    }
