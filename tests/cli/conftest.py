"""The command line as users run it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

BIN = Path(sys.executable).parent


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
            timeout=180,
        )

    return run


@pytest.fixture
def type_words(home, monkeypatch) -> Iterator[Callable[..., Any]]:
    """Spawns a program of ours in a terminal of 160 columns, and ends it after the test."""
    monkeypatch.setenv("PATH", str(BIN), prepend=os.pathsep)
    monkeypatch.setenv("TERM", "xterm")
    children = []

    def spawn(*words: object) -> Any:
        program, *arguments = map(str, words)
        child = pexpect.spawn(
            program,
            arguments,
            encoding="utf-8",
            dimensions=(40, 160),
            timeout=120,
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        if child.isalive():
            child.kill(signal.SIGKILL)
            child.wait()  # `close` gives it a tenth of a second to die
        child.close()
