from __future__ import annotations

import sys
from pathlib import Path

import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve


def test_package_file_is_found_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "weights_for_test"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("package://weights_for_test/model.gguf") == package / "model.gguf"
    assert "weights_for_test" not in sys.modules


def test_local_path_is_taken_as_it_is(tmp_path: Path) -> None:
    assert resolve(f"file://{tmp_path}") == tmp_path


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://meta/llama", "use one of package://, file://"),
        ("/models/llama", "has no supported scheme"),
        ("file://models/llama", "must be absolute, as in file:///models/"),
        ("file:///no/such/file", "which does not exist"),
        ("package://no_such_module/file.gguf", "no package 'no_such_module' is installed"),
        ("package://msgspec/no-such-file", "which does not exist"),
        ("package://msgspec/../aiohttp/__init__.py", "leaves the package"),
        ("package://msgspec", "must read package://module/file"),
    ],
)
def test_bad_uri_names_the_remedy(uri: str, message: str) -> None:
    with pytest.raises(StartError, match=message):
        resolve(uri)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(StartError, match=r"neither a \.gguf file nor a directory"):
        open_checkpoint(tmp_path / "model.bin")
