"""Models from an S3 server."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights import inspect
from openinference_engine.weights.summary import summarise

from tests.engine.sources.preparing import fetch


@pytest.fixture(scope="session")
def s3() -> Iterator[httpx2.Client]:
    """moto, started as its users start it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with httpx2.Client(base_url=f"http://{host}:{port}", timeout=120) as client:
        assert client.put("/models").status_code == 200
        yield client
    server.stop()


@pytest.fixture
def bucket(s3: httpx2.Client, monkeypatch: pytest.MonkeyPatch) -> httpx2.Client:
    monkeypatch.setenv("AWS_ENDPOINT_URL", str(s3.base_url).rstrip("/"))
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")  # moto takes any
    return s3


def upload(bucket: httpx2.Client, folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        assert bucket.put(f"/models/{prefix}/{path.name}", content=path.read_bytes()).is_success


def test_a_folder_is_fetched_from_s3_without_what_can_run(
    bucket: httpx2.Client, tiny_llama: Path, tmp_path: Path
) -> None:
    upload(bucket, tiny_llama, "tiny")
    for name in ("pytorch_model.bin", "modeling.py", "consolidated.safetensors"):
        bucket.put(f"/models/tiny/{name}", content=b"unwanted")
    bucket.put("/models/tiny/original/model.safetensors", content=b"unwanted")
    prepared = fetch("s3://models/tiny", tmp_path)
    expected = {path.name: path.read_bytes() for path in tiny_llama.iterdir()}
    assert {file.name: (tmp_path / file.name).read_bytes() for file in prepared.files} == expected
    assert prepared.path == str(tmp_path)
    assert prepared.summary == summarise(tiny_llama)
    assert inspect.inspect("s3://models/tiny").summary == prepared.summary


def test_a_header_of_absurd_length_is_not_read(bucket: httpx2.Client) -> None:
    content = (1 << 40).to_bytes(8, "little") + bytes(64)
    assert bucket.put("/models/absurd/model.safetensors", content=content).is_success
    with pytest.raises(StartError, match=r"model\.safetensors .* 1099511627776 bytes.*another"):
        inspect.inspect("s3://models/absurd")


def test_one_file_is_fetched_from_s3(
    bucket: httpx2.Client, tiny_gguf: bytes, tmp_path: Path
) -> None:
    bucket.put("/models/one/tiny.gguf", content=tiny_gguf)
    prepared = fetch("s3://models/one/tiny.gguf", tmp_path)
    assert Path(prepared.path).read_bytes() == tiny_gguf
    assert prepared.resolved_revision == hashlib.md5(tiny_gguf, usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("pytorch_model.bin",), "pickled weights can run code and are not read"),
        (("q4.gguf", "q8.gguf"), "name one of its GGUF files, such as …/q4.gguf"),
        ((), "name a folder with safetensors files, or one .gguf file"),
    ],
)
def test_a_folder_without_weights_says_what_to_name(
    bucket: httpx2.Client, tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    for name in files:
        bucket.put(f"/models/{len(files)}/{name}", content=b"-")
    with pytest.raises(StartError, match=message):
        fetch(f"s3://models/{len(files)}", tmp_path)


def test_a_bucket_that_does_not_exist_is_said(bucket: httpx2.Client, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"check the name, and give AWS_ACCESS_KEY_ID"):
        fetch("s3://absent/tiny", tmp_path)
