"""Inputs of ops, and their comparison with their plain-torch references.

Inputs are seeded random; outputs start as NaN, so an element nobody wrote fails. Bounds: sums in
another order cost about 1e-6, a bf16 output one rounding more (2^-8 of the value at most).
"""

import math

import torch
from openinference_engine.ops import cuda_cache
from openinference_engine.ops import cuda_reference as reference

BF16 = {"rtol": 2**-7, "atol": 2**-7}
FP32 = {"rtol": 1e-4, "atol": 1e-4}
LOOSE = {"rtol": 2**-5, "atol": 2**-5}
EPSILON = 1e-5
TOKEN_COUNTS = [0, 1, 3, 8, 9, 17, 32, 67]


class Inputs:
    """Seeded tensors on one device, and NaN for what an op must write."""

    def __init__(self, place):
        self.device = place.device
        self.random = torch.Generator().manual_seed(7)

    def normal(self, *shape, scale=1.0, dtype=torch.bfloat16):
        values = torch.randn(*shape, generator=self.random) * scale
        return values.to(dtype).to(self.device)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.random, dtype=torch.int32).to(
            self.device
        )

    def unwritten(self, *shape, dtype=torch.bfloat16):
        return torch.full(shape, math.nan, dtype=dtype, device=self.device)

    def zeros(self, *shape, dtype=torch.int32):
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def normed(self, tokens, hidden):
        """x and sum_squares as a producer would leave them."""
        state = self.normal(tokens, hidden, dtype=torch.float32)
        x, squares = (
            self.unwritten(tokens, hidden),
            self.unwritten(tokens, hidden // 16, dtype=torch.float32),
        )
        reference.write_norm_inputs(state, self.normal(hidden), x, squares)
        return x, squares

    def new_state(self, tokens, rows):
        """What a product adds to: a state of float32, and what it leaves for the product behind."""
        return {
            "norm_weight": self.normal(rows),
            "hidden": self.normal(tokens, rows, dtype=torch.float32),
            "x": self.unwritten(tokens, rows),
            "sum_squares": self.unwritten(tokens, rows // 16, dtype=torch.float32),
        }

    def appended(self, pages, query_heads, kv_heads, head_dim):
        """Positions and turns of a token for each row of pages, and what it writes of its heads."""
        table, blocks = pages
        tokens = len(table)
        return {
            "rotary": self.normal(48, head_dim // 2, 2, dtype=torch.float32),
            "positions": self.integers(-1, 48, tokens),
            "block_table": table,
            "query": self.unwritten(tokens, query_heads, head_dim),
            "key_cache": self.unwritten(blocks * 16, kv_heads, head_dim),
            "value_cache": self.unwritten(blocks * 16, kv_heads, head_dim),
        }

    def caches(self, cache_format, blocks, kv_heads, head_dim):
        """Keys and values of a layer as codes, all bytes and numbers of which are NaN or so."""
        sizes = 1, blocks, kv_heads, head_dim
        for vector_format in (cache_format.keys, cache_format.values):
            (cache,) = cuda_cache.empty_layers(vector_format, *sizes, self.device)
            cache.view(torch.uint8).fill_(0x7F)
            yield cache

    def pages(self, tokens, per_sequence, spare=3):
        """A block table whose pages are scattered over the cache, and the number of its blocks."""
        blocks = tokens * per_sequence + spare
        order = torch.randperm(blocks, generator=self.random, dtype=torch.int32)
        return order[: tokens * per_sequence].view(tokens, per_sequence).to(self.device), blocks


def check(place, op, arguments, outputs, bounds=None, oracle=reference):
    """Run kernel and reference on equal copies; compare the named outputs, within their bounds."""
    mine = {
        name: value.clone() if torch.is_tensor(value) else value
        for name, value in arguments.items()
    }
    theirs = {
        name: value.clone() if torch.is_tensor(value) else value
        for name, value in arguments.items()
    }
    getattr(place.ops, op)(**mine, stream=place.stream)
    getattr(oracle, op)(**theirs)
    for name in outputs:
        bound = BF16 if mine[name].dtype == torch.bfloat16 else FP32
        bound = (bounds or {}).get(name, bound)
        torch.testing.assert_close(
            mine[name], theirs[name], equal_nan=True, **bound, msg=lambda m, n=name: f"{n}: {m}"
        )
    return mine
