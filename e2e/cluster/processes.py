"""The daemons of the cluster as processes: started, recognised, ended.

A daemon is data: its command line and the files it reads. The fingerprint of that data is
recorded beside the pid, so bringing the cluster up is one rule for every daemon: one that is
dead or was started from other data is started anew. The start time of the process, in clock
ticks since boot, is recorded too; a pid alone may have been given to somebody else since.
"""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from e2e.cluster import cgroups, namespaces, places
from e2e.cluster.errors import ClusterError

_PROXY = re.compile(r"(all|http|https)_proxy", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program that runs on a node for as long as the node lives."""

    name: str
    node: int
    command: tuple[str, ...]
    files: Mapping[Path, str] = field(default_factory=dict)
    # Read but not written by us as text (certificates, say); a change of content restarts too.
    inputs: tuple[Path, ...] = ()

    @property
    def log(self) -> Path:
        return places.LOGS / f"{self.name}.log"

    def fingerprint(self) -> str:
        digest = hashlib.sha256("\0".join(self.command).encode())
        for path, text in sorted(self.files.items()):
            digest.update(f"\0{path}\0{text}".encode())
        for path in self.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Record:
    """The process that was started for a daemon, and from which description."""

    pid: int
    start_ticks: int | None
    fingerprint: str


def ensure_running(daemon: Daemon) -> bool:
    """Start the daemon unless it already runs as described; say whether it was started."""
    running = _running(daemon.name)
    if running and running.fingerprint == daemon.fingerprint():
        return False
    for pid in [running.pid] if running else _unrecorded(daemon):
        _end(pid)
    start(daemon)
    return True


def start(daemon: Daemon) -> None:
    """Write the daemon's files and start it on its node, detached from this terminal."""
    for path, text in daemon.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
    places.LOGS.mkdir(parents=True, exist_ok=True)
    places.PROCESSES.mkdir(parents=True, exist_ok=True)
    _allow_many_open_files()
    with daemon.log.open("ab") as log:
        process = subprocess.Popen(
            namespaces.inside(daemon.node, *daemon.command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=without_proxies(os.environ),
            start_new_session=True,
            cwd="/",
        )
    cgroups.adopt(daemon.node, process.pid)
    record = _Record(process.pid, _start_ticks(process.pid), daemon.fingerprint())
    record_path(daemon.name).write_text(json.dumps(asdict(record)))


def without_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """What a daemon inherits: it speaks to the cluster alone, which no proxy can reach."""
    return {name: value for name, value in variables.items() if not _PROXY.fullmatch(name)}


def record_path(name: str) -> Path:
    return places.PROCESSES / f"{name}.json"


def running_pid(name: str) -> int | None:
    """The pid of the daemon of that name, if the recorded process is still the same one."""
    running = _running(name)
    return running.pid if running else None


def require_running(daemon: Daemon) -> None:
    """Raise with the end of its log if the daemon has died."""
    if running_pid(daemon.name) is None:
        lines = daemon.log.read_text(errors="replace").splitlines()
        last = lines[-1] if lines else "nothing was logged"
        raise ClusterError(f"{daemon.name} died: {last} (see {daemon.log}).")


def _allow_many_open_files() -> None:
    """Containers inherit this limit, and a shell's usual 1,024 would bound the router's streams."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _running(name: str) -> _Record | None:
    try:
        record = _Record(**json.loads(record_path(name).read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    alive = record.start_ticks is not None and _start_ticks(record.pid) == record.start_ticks
    return record if alive else None


def _unrecorded(daemon: Daemon) -> list[int]:
    """The daemon started by a call that was killed before it could write the record."""
    line = "\0".join((*daemon.command, "")).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            if path.read_bytes() == line:
                found.append(int(path.parent.name))
    return found


def _start_ticks(pid: int) -> int | None:
    """When the process started; None if there is none or only its zombie is left."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field, the program's name in parentheses, may itself hold spaces.
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def _end(pid: int) -> None:
    """Ask a process to stop, and kill it if it has not within five seconds."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 5
    while _start_ticks(pid) is not None:
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
