"""A paged cache and its kernels, and sequences that lie in it."""

from dataclasses import dataclass

import torch
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.ops import cpu, reference
from openinference_engine.ops.plan import NO_WINDOW, AttentionPlan

HEADS, KV_HEADS, HEAD_DIM, NUM_BLOCKS = 9, 3, 64, 64
CODED = [name for name, known in CPU_FORMATS.items() if known.is_coded]


@dataclass
class Paged:
    """A cache full of NaN, so that reading a position that nobody wrote shows."""

    block_size: int = 16
    kv_heads: int = KV_HEADS
    head_dim: int = HEAD_DIM
    dtype: str = "auto"

    def __post_init__(self):
        sizes = (NUM_BLOCKS, self.kv_heads, self.head_dim, self.block_size)
        self.cache = cpu.LayerCache(CPU_FORMATS[self.dtype], *sizes)
        for vectors in (self.cache.keys, self.cache.values):
            vectors.codes.fill_(torch.nan if vectors.codes.is_floating_point() else 255)
            vectors.numbers.fill_(torch.nan)

    def expected(self, query, chunks, window=NO_WINDOW):
        """What the reference makes of the same cache."""
        return reference.paged_attention(query, self.cache, self.plan(chunks), window)

    def plan(self, chunks):
        """chunks: (blocks, first position, new positions) of each sequence."""
        lengths = [first + count for _, first, count in chunks]
        width = max(len(blocks) for blocks, _, _ in chunks)
        slots = [
            blocks[position // self.block_size] * self.block_size + position % self.block_size
            for blocks, first, count in chunks
            for position in range(first, first + count)
        ]
        counts = torch.tensor([0, *(count for _, _, count in chunks)])
        return AttentionPlan(
            slots=torch.tensor(slots, dtype=torch.int64),
            starts=counts.cumsum(0).to(torch.int32),
            lengths=torch.tensor(lengths, dtype=torch.int32),
            blocks=torch.tensor(
                [blocks + [0] * (width - len(blocks)) for blocks, _, _ in chunks], dtype=torch.int32
            ),
        )

    def attend(self, query, key, value, chunks, window=NO_WINDOW):
        plan = self.plan(chunks)
        cpu.append_kv(key, value, self.cache, plan.slots)
        return cpu.paged_attention(query, self.cache, plan, window)


def random_heads(tokens, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM):
    return tuple(torch.randn(tokens, count, head_dim) for count in (heads, kv_heads, kv_heads))


def blocks_for(length, first_block, block_size=16):
    """Descending, so that neighbours in the sequence are none in the pool."""
    return [first_block + i for i in reversed(range(-(-length // block_size)))]
