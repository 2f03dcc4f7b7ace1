"""Where models are fetched from, and how: in many small ranges, without patience."""

from __future__ import annotations

from collections.abc import Iterator

import gguf
import numpy as np
import pytest
from openinference_engine.weights import download

from tests.engine.sources.web import Web


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small ranges, and no patience."""
    monkeypatch.setattr(download, "RANGE_BYTES", 1 << 16)
    monkeypatch.setattr(download, "FIRST_PAUSE_SECONDS", 0.01)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A GGUF file of a megabyte whose header says what a summary needs."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(256)
    writer.add_block_count(2)
    writer.add_feed_forward_length(512)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(2048)
    generator = np.random.default_rng(7)
    writer.add_tensor("token_embd.weight", generator.random((1024, 256), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def model(web: Web, tiny_gguf: bytes) -> str:
    web.files["/tiny.gguf"] = tiny_gguf
    return f"{web.url}/tiny.gguf"
