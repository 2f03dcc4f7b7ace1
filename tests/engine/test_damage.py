"""Damaged model files: every one is told in one sentence, or does no harm. Never a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint

FUZZED = settings(
    max_examples=3 * settings.default.max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def damages(draw: st.DrawFn, size: int, header: int) -> Callable[[bytes], bytes]:
    """Overwrites a few bytes, mostly of the header, or cuts the file short."""
    if draw(st.booleans()):
        end = draw(st.integers(0, size - 1))
        return lambda data: data[:end]
    where = st.one_of(st.integers(0, header - 1), st.integers(0, size - 1))
    places = draw(st.dictionaries(where, st.integers(0, 255), min_size=1, max_size=4))

    def overwrite(data: bytes) -> bytes:
        changed = bytearray(data)
        for place, value in places.items():
            changed[place] = value
        return bytes(changed)

    return overwrite


def start(path: Path) -> None:
    """What both processes of a server do with a checkpoint until they are ready."""
    checkpoint = open_checkpoint(path)
    _ = checkpoint.fingerprint
    load_tokenizer(checkpoint, path)
    Engine(checkpoint, EngineConfig("", max_sequences=1)).warm_up()


def start_or_refuse(path: Path) -> None:
    message = ""
    try:
        start(path)
    except StartError as error:
        message = str(error)
    assert "\n" not in message


@pytest.fixture(scope="module")
def gguf_bytes(
    make_tiny_model: Callable[..., Path],
    save_as_gguf: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> bytes:
    folder = make_tiny_model()
    return save_as_gguf(folder, tmp_path_factory.mktemp("gguf") / "model.gguf", "F32").read_bytes()


@given(data=st.data())
@FUZZED
def test_damaged_gguf_file_is_one_sentence(
    data: st.DataObject, gguf_bytes: bytes, tmp_path: Path
) -> None:
    damage = data.draw(damages(len(gguf_bytes), header=6000))
    path = tmp_path / "model.gguf"
    path.write_bytes(damage(gguf_bytes))
    start_or_refuse(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@given(data=st.data())
@FUZZED
def test_damaged_file_of_a_folder_is_one_sentence(
    data: st.DataObject, name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    for file in tiny_llama.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tiny_llama / name).read_bytes()
    damage = data.draw(damages(len(whole), header=min(len(whole), 3000)))
    (tmp_path / name).write_bytes(damage(whole))
    start_or_refuse(tmp_path)


def test_tokenizer_of_another_model_is_refused(
    make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_tiny_model(vocab_size=250)
    with pytest.raises(StartError, match="has a token 257 and the model 250 of them"):
        start(folder)


def test_context_that_no_memory_can_hold_is_refused(make_tiny_model: Callable[..., Path]) -> None:
    folder = make_tiny_model(max_position_embeddings=10**12)
    with pytest.raises(StartError, match="one sequence of 1000000000000 tokens needs"):
        start(folder)
