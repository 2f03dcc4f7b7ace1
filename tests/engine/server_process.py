"""The server as a process of its own, as users start it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from tests.ports import free_port

_LOAD_GAUGES = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting{"),
    "vllm:kv_cache_usage",
)


class ServerProcess:
    """`python -m openinference_engine serve` as a user starts it."""

    def __init__(self, uri: str, *flags: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = (sys.executable, "-m", "openinference_engine", "serve", uri)
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        # A file: who writes more than a pipe holds would wait for its reader, for ever.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `stop`
        self.process = subprocess.Popen([*command, *address, *flags], stderr=self._log)

    def wait_until(self, path: str, status: int, deadline_seconds: float = 120) -> None:
        deadline = time.monotonic() + deadline_seconds
        while time.monotonic() < deadline:
            try:
                if httpx2.get(self.url + path, timeout=5).status_code == status:
                    return
            except httpx2.TransportError:
                pass
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.wait()[1]}")
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status} in {deadline_seconds} s")

    def wait_until_empty(self) -> None:
        """No test leaves a sequence or a cache block behind."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = httpx2.get(self.url + "/metrics", timeout=60).text.splitlines()
            gauges = [line for line in lines if line.startswith(_LOAD_GAUGES)]
            if all(line.endswith(" 0.0") for line in gauges):
                return
            time.sleep(0.05)
        raise AssertionError(f"the engine is not empty: {gauges}")

    def core_pid(self) -> int:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = path.read_text().split()
        return int(pid)

    def wait(self) -> tuple[int, str]:
        """Exit code and what was written to stderr."""
        self.process.wait(180)
        self._log.seek(0)
        return self.process.returncode, self._log.read()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)  # does nothing to one that has ended
        self.process.wait(180)
        self._log.close()
