"""Quantised checkpoints reach a GPU as the codes they are, and what does not fit is expanded.

Scales are powers of two, so that rounding them to bfloat16 changes nothing: every matrix is then
what the checkpoint says, to the bit.
"""

import numpy as np
import pytest
import torch
from openinference_engine.errors import StartError
from openinference_engine.packings import PACKINGS, packing_of
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.team import Team
from openinference_engine.tiles import plain_order
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.device_codes import expand
from openinference_engine.weights.kernel_formats import stored_format
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.summary import summarise
from openinference_engine.weights.upload import opened_upload

from tests.engine.foreign_codes import (
    DOWN,
    INPUTS,
    OUTPUTS,
    random_parts,
    write,
    write_awq,
    write_gptq,
)

CPU = torch.device("cpu")
HALVES = [slice(0, OUTPUTS // 2), slice(OUTPUTS // 2, OUTPUTS)]


@pytest.fixture(scope="module")
def source(make_tiny_model):
    return make_tiny_model(hidden_size=OUTPUTS, intermediate_size=INPUTS, num_attention_heads=4)


def load_down(folder, weight_format):
    return load_down_of(open_checkpoint(folder), weight_format, INPUTS)


def load_down_of(checkpoint, weight_format, inputs):
    weights = Weights(checkpoint, torch.bfloat16).at("model").at("layers.0").at("mlp")
    with opened_upload(CPU) as upload:
        stack = Stack(weights, {"down_proj": OUTPUTS}, inputs, upload)
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


@pytest.mark.parametrize("kind", SCHEMES)
def test_ranks_keep_the_codes_of_their_columns(source, tmp_path, kind):
    """No rank rounds them anew, or needs the columns of the others."""
    quantise_folder(source, tmp_path / "out", SCHEMES[kind])
    whole = open_checkpoint(tmp_path / "out")
    parts = [
        load_down_of(CheckpointPart(whole, Team(index, 2)), kind, INPUTS // 2) for index in range(2)
    ]
    assert {packing_of(units) for units in parts} == {PACKINGS[kind]}
    assert torch.equal(torch.cat([*map(dense, parts)], dim=1), stored(tmp_path / "out"))


PARTS = [
    pytest.param(slice(40, 72), slice(0, 256), id="rows"),
    pytest.param(slice(0, 128), slice(64, 192), id="columns, through groups"),
    pytest.param(slice(64, 128), slice(128, 256), id="both"),
]


@pytest.fixture(scope="module", params=[*SCHEMES, "gptq", "gptq of two groups", "awq"])
def coded(request, source, tmp_path_factory):
    """A checkpoint of each layout of codes."""
    out = tmp_path_factory.mktemp("coded") / "out"
    match request.param:
        case "gptq":
            write_gptq(source, out, *random_parts(4, 32), 4, 32)
        case "gptq of two groups":
            groups = np.random.default_rng(2).permutation(np.arange(INPUTS) // 128)
            parts = random_parts(4, 128)
            write_gptq(source, out, *parts, 4, 128, g_idx=groups.astype(np.int32))
        case "awq":
            write_awq(source, out, *random_parts(4, 128))
        case kind:
            quantise_folder(source, out, SCHEMES[kind])
    return open_checkpoint(out)


@pytest.mark.parametrize(("outputs", "inputs"), PARTS)
def test_part_of_a_matrix_is_read_without_the_rest_of_it(coded, outputs, inputs):
    """The words are views of the file, as many as hold the part."""
    whole = coded.stored_codes(f"{DOWN}.weight")
    part = whole.part(outputs, inputs)
    assert np.shares_memory(part.words, whole.words)
    share = part.shape[0] * part.shape[1] / (OUTPUTS * INPUTS)
    assert part.words.nbytes == share * whole.words.nbytes
    values = expand(part.moved(lambda array: torch.from_numpy(array.copy())))
    expected = expand(whole.moved(lambda array: torch.from_numpy(array.copy())))
    assert torch.equal(values, expected[outputs, inputs])


@pytest.mark.parametrize("rows", [slice(40, 72), slice(43, 86), slice(86, 128)])
def test_rows_of_codes_are_those_of_the_whole_matrix(coded, rows):
    """Rows may begin inside a word, where three ranks share 128."""
    name = f"{DOWN}.weight"
    assert np.array_equal(coded.array(name, rows), coded.array(name)[rows])
    assert coded.array(name, rows).dtype == np.float32
    part, whole = coded.stored(name, rows), coded.stored(name)
    assert (part.format, part.shape) == (whole.format, whole.shape)
    assert np.array_equal(part.rows, whole.rows[rows])


def test_part_whose_zeros_are_plain_keeps_the_format_of_the_whole(source, tmp_path):
    """Kernels of another format would round otherwise than one rank does."""
    codes, zeros, scales = random_parts(4, 32)
    zeros[:, :64] = 8
    checkpoint = open_checkpoint(write_gptq(source, tmp_path / "out", codes, zeros, scales, 4, 32))
    formats = [checkpoint.stored(f"{DOWN}.weight", rows).format for rows in HALVES]
    assert formats == ["Q4_1", "Q4_1"]


def test_part_that_cuts_a_word_is_refused(source, tmp_path):
    folder = write_gptq(source, tmp_path / "out", *random_parts(4, 32), 4, 32)
    codes = open_checkpoint(folder).stored_codes(f"{DOWN}.weight")
    with pytest.raises(ValueError, match="cuts a word of 8 codes"):
        codes.part(slice(0, 12))


def test_plain_checkpoints_are_loaded_in_bfloat16(source):
    assert stored_format(open_checkpoint(source)) == "bfloat16"


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
    folder = write_awq(source, tmp_path / "awq", *random_parts(4, 128))
    assert torch.equal(dense(load_down(folder, "int4-zero")), stored(folder))


def test_groups_that_no_unit_holds_are_expanded(source, tmp_path):
    folder = write_gptq(source, tmp_path / "gptq", *random_parts(4, 32), 4, 32)
    assert stored_format(open_checkpoint(folder)) == "bfloat16"
    assert torch.equal(load_down(folder, "bfloat16").float(), stored(folder))


@pytest.mark.parametrize(("group", "told"), [(32, "bfloat16"), (128, "")])
def test_headers_alone_tell_of_groups_that_are_expanded(source, tmp_path, group, told):
    """`openinference plan` counted them as four bits, and took fp8 activations for them."""
    folder = write_gptq(source, tmp_path / "gptq", *random_parts(4, group), 4, group)
    assert summarise(folder, headers_alone=True).gpu_format == told


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
