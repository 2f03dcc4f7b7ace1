"""The GGUF reader against the `gguf` package, and what it says of damaged files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights.gguf import GGUFFile
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint
from openinference_engine.weights.quantisation import FORMATS, Format


@pytest.fixture(scope="session")
def oracle(smollm2_path: Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(smollm2_path)


def test_metadata_equals_the_package(smollm2: GGUFCheckpoint, oracle: gguf.GGUFReader) -> None:
    expected = {
        name: field.contents()
        for name, field in oracle.fields.items()
        if not name.startswith("GGUF.")
    }
    assert smollm2.file.metadata == expected


def test_every_tensor_of_a_real_file_is_bit_exact(
    smollm2: GGUFCheckpoint, oracle: gguf.GGUFReader
) -> None:
    assert set(smollm2.file.tensors) == {tensor.name for tensor in oracle.tensors}
    for tensor in oracle.tensors:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(smollm2.file.array(tensor.name), expected, tensor.name)


def test_config_comes_from_the_metadata(smollm2: GGUFCheckpoint) -> None:
    config = smollm2.config
    assert (config.num_layers, config.num_heads, config.num_kv_heads) == (30, 9, 3)
    assert (config.hidden_size, config.head_dim, config.vocab_size) == (576, 64, 49152)
    assert config.ties_embeddings


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"GGML" + data[4:], "is not a GGUF file"),
        (
            lambda data: data[:4] + b"\x09" + data[5:],
            "version 9; versions 2 and 3 are read",
        ),
        (lambda data: data[:40], "is damaged or cut short"),
        (lambda data: data[:-30], "is cut short in tensor 'second'; fetch it again"),
        (
            lambda data: data.replace(b"llama.block_count", b"llama.block_counX"),
            "llama.block_count",
        ),
    ],
)
def test_damaged_file_is_one_sentence(tmp_path: Path, damage, message: str) -> None:
    path = write_small_file(tmp_path / "small.gguf")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StartError, match=message):
        _ = GGUFCheckpoint(path).config


def test_unknown_storage_type_is_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("odd", np.zeros(4, dtype=np.float64))
    write(writer)
    with pytest.raises(StartError, match="'odd' has GGUF type 28; known are F32, F16"):
        GGUFFile(tmp_path / "odd.gguf")


def test_fingerprint_changes_with_any_tensor(tmp_path: Path) -> None:
    first = GGUFCheckpoint(write_small_file(tmp_path / "first.gguf"))
    same = GGUFCheckpoint(write_small_file(tmp_path / "same.gguf"))
    other = GGUFCheckpoint(write_small_file(tmp_path / "other.gguf", last_value=2.0))
    assert first.fingerprint == same.fingerprint
    assert first.fingerprint != other.fingerprint


def write_small_file(path: Path, last_value: float = 1.0) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(8)
    writer.add_head_count(2)
    writer.add_feed_forward_length(8)
    writer.add_context_length(16)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((4, 8), dtype=np.float32))
    writer.add_tensor("second", np.array([0.0, last_value], dtype=np.float32))
    write(writer)
    return path


def write(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("known", FORMATS.values(), ids=lambda known: known.name)
@pytest.mark.parametrize("columns", [slice(0, 256), slice(300, 500), slice(700, 768)], ids=str)
def test_columns_are_those_of_whole_rows(known: Format, columns: slice) -> None:
    """Blocks may be cut: what lies in none of the columns' blocks is not expanded."""
    stored = np.random.default_rng(1).integers(0, 60, (3, known.num_bytes(768)), dtype=np.uint8)
    whole = known.unpack(stored.reshape(-1)).reshape(3, 768)
    assert np.array_equal(known.unpack_rows(stored, columns), whole[:, columns])
