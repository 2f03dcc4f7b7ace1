"""Every storage type of GGUF expands to the same bits as the `gguf` package's reader."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from openinference_engine.weights.quantisation import FORMATS

NUM_BLOCKS = 37


@pytest.mark.parametrize("type_id", sorted(FORMATS))
def test_expansion_is_bit_exact(type_id: int) -> None:
    storage = FORMATS[type_id]
    stored = random_blocks(type_id)
    expected = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType(type_id)).reshape(-1)
    expanded = storage.unpack(stored.reshape(-1))
    if storage.name == "BF16":  # comes back as its 16 bits
        expanded = (expanded.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(
        expanded.astype(np.float32).view(np.uint32), expected.astype(np.float32).view(np.uint32)
    )


@pytest.mark.parametrize("type_id", sorted(FORMATS))
def test_block_sizes_are_those_of_the_format(type_id: int) -> None:
    storage = FORMATS[type_id]
    kind = gguf.GGMLQuantizationType(type_id)
    assert (storage.weights_per_block, storage.block.itemsize) == gguf.GGML_QUANT_SIZES[kind]
    assert storage.name == kind.name


def random_blocks(type_id: int) -> np.ndarray:
    """(blocks, bytes) of random bits, but with finite scales."""
    block = FORMATS[type_id].block
    random = np.random.default_rng(type_id)
    if block.names is None:
        return random.normal(size=NUM_BLOCKS * 8).astype(np.float32).view(np.uint8).reshape(8, -1)
    blocks = random.integers(0, 256, NUM_BLOCKS * block.itemsize, dtype=np.uint8).view(block)
    for name in {"scale", "minimum"} & set(block.names):
        blocks[name] = random.normal(size=NUM_BLOCKS).astype(np.float16)
    return blocks.view(np.uint8).reshape(NUM_BLOCKS, -1)
