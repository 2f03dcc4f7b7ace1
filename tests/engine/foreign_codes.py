"""Checkpoints of which one matrix is of codes, as the tools of GPTQ and AWQ write them."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

OUTPUTS, INPUTS = 128, 256
DOWN = "model.layers.0.mlp.down_proj"
AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]


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


def write_awq(source, folder, codes, zeros, scales):
    parts = {"qweight": packed_words(codes, 4, AWQ_PLACES), "scales": scales}
    parts |= {"qzeros": packed_words(zeros, 4, AWQ_PLACES)}
    method = {"quant_method": "awq", "bits": 4, "group_size": 128}
    return write(source, folder, parts, method)
