"""GPTQ and AWQ folders: what their words stand for, by the formats' definitions, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import Checkpoint, open_checkpoint
from openinference_engine.weights.quantisation import FORMATS
from safetensors.numpy import load_file, save_file

NAME = "model.layers.0.mlp.down_proj"
INPUTS, OUTPUTS, GROUP = 96, 64, 32
AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # which nibble of its word output 0, 1, 2, … of eight has
FORMAT_OF = {known.name: known for known in FORMATS.values()}


@pytest.fixture
def folder(make_tiny_model: Callable[..., Path]) -> Path:
    return make_tiny_model(hidden_size=OUTPUTS, intermediate_size=INPUTS, num_attention_heads=4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_gptq_words_are_read_by_their_definition(folder: Path, bits: int, version: str) -> None:
    codes, zeros, scales = random_parts(bits)
    words = np.zeros((INPUTS * bits // 32, OUTPUTS), np.uint32)
    for i in range(INPUTS):  # input i: bits of word i · bits / 32, the lowest first
        words[i * bits // 32] |= codes[i] << np.uint32(i * bits % 32)
    packed_zeros = pack_outputs(zeros - (version == "gptq"), bits, range(32 // bits))
    checkpoint = replaced(
        folder, words, packed_zeros, scales,
        {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": version},
    )  # fmt: skip
    np.testing.assert_array_equal(
        checkpoint.array(f"{NAME}.weight"), expected(codes, zeros, scales)
    )
    check_stored(checkpoint, "Q4_1" if bits == 4 else "F16")


def test_awq_words_are_read_by_their_definition(folder: Path) -> None:
    codes, zeros, scales = random_parts(4)
    words, packed_zeros = (pack_outputs(part, 4, AWQ_PLACES) for part in (codes, zeros))
    method = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    checkpoint = replaced(folder, words, packed_zeros, scales, method)
    np.testing.assert_array_equal(
        checkpoint.array(f"{NAME}.weight"), expected(codes, zeros, scales)
    )
    check_stored(checkpoint, "Q4_1")


def test_symmetric_codes_keep_their_four_bits_exactly(folder: Path) -> None:
    codes, zeros, scales = random_parts(4)
    zeros[:] = 8
    words, packed_zeros = (pack_outputs(part, 4, AWQ_PLACES) for part in (codes, zeros))
    checkpoint = replaced(folder, words, packed_zeros, scales, {"quant_method": "awq", "bits": 4,
                                                                "group_size": GROUP})  # fmt: skip
    stored = check_stored(checkpoint, "Q4_0")
    np.testing.assert_array_equal(stored, expected(codes, zeros, scales))


def test_groups_in_another_order_are_expanded(folder: Path) -> None:
    codes, zeros, scales = random_parts(4)
    groups = np.random.default_rng(2).permutation(np.arange(INPUTS) // GROUP).astype(np.int32)
    words = np.zeros((INPUTS // 8, OUTPUTS), np.uint32)
    for i in range(INPUTS):
        words[i // 8] |= codes[i] << np.uint32(i % 8 * 4)
    method = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True}
    packed_zeros = pack_outputs(zeros - 1, 4, range(8))
    checkpoint = replaced(folder, words, packed_zeros, scales, method, groups)
    wanted = expected(codes, zeros, scales, groups)
    np.testing.assert_array_equal(checkpoint.array(f"{NAME}.weight"), wanted)
    check_stored(checkpoint, "F16")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"quant_method": "gptq", "bits": "four"}, r"Expected `int`.*bits`; fetch it again"),
        ({"quant_method": "gptq", "bits": 3}, "'gptq' of 3 bits.* known are gptq of 4 or 8 bits"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "version 'gemv'"),
        ({"quant_method": "bitsandbytes"}, "names 'bitsandbytes'"),
    ],
)
def test_unknown_method_is_refused(folder: Path, method: dict[str, object], message: str) -> None:
    set_method(folder, method)
    with pytest.raises(StartError, match=message):
        open_checkpoint(folder)


def test_scales_that_do_not_fit_are_refused(folder: Path) -> None:
    codes, zeros, scales = random_parts(4)
    words, packed_zeros = (pack_outputs(part, 4, AWQ_PLACES) for part in (codes, zeros))
    method = {"quant_method": "awq", "bits": 4, "group_size": GROUP}
    checkpoint = replaced(folder, words, packed_zeros, scales[:, 8:], method)
    with pytest.raises(StartError, match=r"down_proj: scales \(3, 56\) and zeros \(3, 64\)"):
        checkpoint.array(f"{NAME}.weight")


def random_parts(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """codes (inputs, outputs), zeros and scales (groups, outputs)."""
    random = np.random.default_rng(bits)
    codes = random.integers(0, 1 << bits, (INPUTS, OUTPUTS), dtype=np.uint32)
    zeros = random.integers(1, 1 << bits, (INPUTS // GROUP, OUTPUTS), dtype=np.uint32)
    scales = random.uniform(0.01, 0.1, (INPUTS // GROUP, OUTPUTS)).astype(np.float16)
    return codes, zeros, scales


def pack_outputs(values: np.ndarray, bits: int, places: list[int] | range) -> np.ndarray:
    per_word = 32 // bits
    words = np.zeros((len(values), OUTPUTS // per_word), np.uint32)
    for output in range(OUTPUTS):
        shift = np.uint32(places[output % per_word] * bits)
        words[:, output // per_word] |= values[:, output] << shift
    return words


def expected(
    codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    weights = np.empty((OUTPUTS, INPUTS), np.float32)
    for i in range(INPUTS):
        group = i // GROUP if groups is None else groups[i]
        centred = codes[i].astype(np.float32) - zeros[group].astype(np.float32)
        weights[:, i] = scales[group].astype(np.float32) * centred
    return weights


def replaced(
    folder: Path,
    words: np.ndarray,
    zeros: np.ndarray,
    scales: np.ndarray,
    method: dict[str, object],
    groups: np.ndarray | None = None,
) -> Checkpoint:
    """The folder with one matrix replaced by its quantised parts, opened."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{NAME}.weight"]
    parts = {"qweight": words.view(np.int32), "qzeros": zeros.view(np.int32), "scales": scales}
    parts |= {} if groups is None else {"g_idx": groups}
    tensors |= {f"{NAME}.{part}": np.ascontiguousarray(value) for part, value in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    set_method(folder, method)
    checkpoint = open_checkpoint(folder)
    assert f"{NAME}.weight" in checkpoint.names()
    assert not any(name.endswith((".qweight", ".scales")) for name in checkpoint.names())
    return checkpoint


def set_method(folder: Path, method: dict[str, object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": method}))


def check_stored(checkpoint: Checkpoint, format_name: str) -> np.ndarray:
    """The stored rows say the same as the array, up to half precision."""
    stored = checkpoint.stored(f"{NAME}.weight")
    assert (stored.format, stored.shape) == (format_name, (OUTPUTS, INPUTS))
    values = FORMAT_OF[format_name].unpack(stored.rows.reshape(-1)).reshape(OUTPUTS, INPUTS)
    array = checkpoint.array(f"{NAME}.weight")
    np.testing.assert_allclose(values, array, rtol=2**-10, atol=0.1 * 15 * 2**-11)
    return values
