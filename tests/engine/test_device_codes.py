"""Quantised checkpoints reach a GPU as the codes they are, and what does not fit is expanded.

Scales are powers of two, so that rounding them to bfloat16 changes nothing: every matrix is then
what the checkpoint says, to the bit.
"""

import json

import numpy as np
import pytest
import torch
from openinference_engine.errors import StartError
from openinference_engine.packings import PACKINGS, packing_of
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.tiles import plain_order
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.device_codes import stored_format
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import opened_upload
from safetensors.numpy import load_file, save_file

OUTPUTS, INPUTS = 128, 256
DOWN = "model.layers.0.mlp.down_proj"
CPU = torch.device("cpu")
AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.fixture(scope="module")
def source(make_tiny_model):
    return make_tiny_model(hidden_size=OUTPUTS, intermediate_size=INPUTS, num_attention_heads=4)


def load_down(folder, weight_format):
    weights = Weights(open_checkpoint(folder), torch.bfloat16).at("model").at("layers.0").at("mlp")
    with opened_upload(CPU) as upload:
        stack = Stack(weights, {"down_proj": OUTPUTS}, INPUTS, upload)
        (units,) = upload.in_turn([lambda: stack.packed(weight_format, plain_order(OUTPUTS))])
    return units


def dense(units):
    packing = packing_of(units)
    return packing.dequantise(*packing.unpack(units, plain_order(OUTPUTS)))


def stored(folder):
    return torch.from_numpy(open_checkpoint(folder).array(f"{DOWN}.weight").astype(np.float32))


@pytest.mark.parametrize("kind", SCHEMES)
def test_our_own_folders_stay_the_codes_they_are(source, tmp_path, kind):
    quantise_folder(source, tmp_path / "out", SCHEMES[kind])
    assert stored_format(open_checkpoint(tmp_path / "out")) == kind
    units = load_down(tmp_path / "out", kind)
    assert packing_of(units) is PACKINGS[kind]
    assert torch.equal(dense(units), stored(tmp_path / "out"))


def test_plain_checkpoints_are_loaded_in_bfloat16(source):
    assert stored_format(open_checkpoint(source)) == "bfloat16"


def random_parts(bits, group):
    """codes (inputs, outputs), zeros and scales (groups, outputs)."""
    random = np.random.default_rng(bits)
    codes = random.integers(0, 1 << bits, (INPUTS, OUTPUTS), dtype=np.uint32)
    zeros = random.integers(1, 1 << bits, (INPUTS // group, OUTPUTS), dtype=np.uint32)
    scales = 2.0 ** random.integers(-9, -3, (INPUTS // group, OUTPUTS))
    return codes, zeros, scales.astype(np.float16)


def packed_words(values, bits, places):
    """(rows, n) → (rows, n · bits / 32) int32: value i at place i of its word."""
    per_word = 32 // bits
    words = np.zeros((len(values), values.shape[1] // per_word), np.uint32)
    for index in range(values.shape[1]):
        words[:, index // per_word] |= values[:, index] << np.uint32(
            places[index % per_word] * bits
        )
    return words.view(np.int32)


def write(source, folder, parts, method):
    """The folder with its down projection replaced by quantised parts."""
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    del tensors[f"{DOWN}.weight"]
    tensors |= {f"{DOWN}.{name}": np.ascontiguousarray(part) for name, part in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method}))
    return folder


def write_gptq(source, folder, codes, zeros, scales, bits, group, **parts):
    places = range(32 // bits)
    parts |= {
        "qweight": packed_words(codes.T, bits, places).T,
        "qzeros": packed_words(zeros - 1, bits, places),
        "scales": scales,
    }
    method = {"quant_method": "gptq", "bits": bits, "group_size": group}
    return write(source, folder, parts, method)


@pytest.mark.parametrize("group", [128, 256])
def test_gptq_words_become_units_with_zeros(source, tmp_path, group):
    folder = write_gptq(source, tmp_path / "gptq", *random_parts(4, group), 4, group)
    assert stored_format(open_checkpoint(folder)) == "int4-zero"
    units = load_down(folder, "int4")
    assert packing_of(units) is PACKINGS["int4-zero"]
    assert torch.equal(dense(units), stored(folder))


@pytest.mark.parametrize(("bits", "kind"), [(4, "int4"), (8, "int8")])
def test_gptq_words_without_zeros_become_plain_units(source, tmp_path, bits, kind):
    codes, zeros, scales = random_parts(bits, 128)
    zeros[:] = 1 << bits - 1
    folder = write_gptq(source, tmp_path / "gptq", codes, zeros, scales, bits, 128)
    assert stored_format(open_checkpoint(folder)) == kind
    units = load_down(folder, kind)
    assert packing_of(units) is PACKINGS[kind]
    assert torch.equal(dense(units), stored(folder))


def test_awq_words_become_units_with_zeros(source, tmp_path):
    codes, zeros, scales = random_parts(4, 128)
    parts = {"qweight": packed_words(codes, 4, AWQ_PLACES), "scales": scales}
    parts |= {"qzeros": packed_words(zeros, 4, AWQ_PLACES)}
    method = {"quant_method": "awq", "bits": 4, "group_size": 128}
    folder = write(source, tmp_path / "awq", parts, method)
    assert torch.equal(dense(load_down(folder, "int4-zero")), stored(folder))


def test_groups_that_no_unit_holds_are_expanded(source, tmp_path):
    folder = write_gptq(source, tmp_path / "gptq", *random_parts(4, 32), 4, 32)
    assert stored_format(open_checkpoint(folder)) == "bfloat16"
    assert torch.equal(load_down(folder, "bfloat16").float(), stored(folder))


def test_groups_in_another_order_are_expanded(source, tmp_path):
    groups = np.random.default_rng(2).permutation(np.arange(INPUTS) // 128).astype(np.int32)
    parts = random_parts(4, 128)
    folder = write_gptq(source, tmp_path / "gptq", *parts, 4, 128, g_idx=groups)
    assert stored_format(open_checkpoint(folder)) == "bfloat16"
    assert torch.equal(load_down(folder, "bfloat16").float(), stored(folder))


def test_eight_bits_with_zeros_are_rounded_anew_to_what_is_wanted(source, tmp_path):
    folder = write_gptq(source, tmp_path / "gptq", *random_parts(8, 128), 8, 128)
    assert stored_format(open_checkpoint(folder)) == "bfloat16"
    wanted = PACKINGS["int8"].dequantise(*PACKINGS["int8"].quantise(stored(folder).bfloat16()))
    assert torch.equal(dense(load_down(folder, "int8")), wanted)


def test_whole_codes_with_scales_of_blocks_are_refused(source, tmp_path):
    parts = {
        "weight": np.ones((OUTPUTS, INPUTS), np.int8),
        "weight_scale": np.ones((OUTPUTS // 2, 2), np.float16),
    }
    folder = write(source, tmp_path / "blocks", parts, {"quant_method": "compressed-tensors"})
    with pytest.raises(StartError, match=r"scales \(64, 2\) do not fit \(128, 256\)"):
        stored(folder)
