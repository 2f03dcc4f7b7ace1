"""The ranks of one pod as processes, started and ended by the process that cares for the pod."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.limits import processor_limit

_MODULE = "openinference_engine.ranks"
log = logging.getLogger("openinference.ranks")
BEAT_SECONDS = 0.5
_END_SECONDS = 5.0
_SILENCE_SECONDS = 4.0  # then a rank hangs as a whole: its own watch would have ended it before


def beat(path: Path) -> None:
    """Says that this process runs, by the file's time: a clock that all of the pod share."""
    path.touch()
    os.utime(path, ns=(time.monotonic_ns(),) * 2)


def resident_bytes(process: int) -> int:
    """Of physical memory; 0 for a process that has ended, and where /proc does not say."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """By SIGSTOP: it cannot end itself, and never moves on by itself. Debuggers do it otherwise."""
    if process.returncode is not None:
        return False
    with suppress(ChildProcessError):  # it has ended, which another thread has seen
        flags = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, process.pid, flags) is not None
    return False


def threads_per_rank(group: GroupConfig) -> int:
    """The ranks of a pod share its processors."""
    return max(1, processor_limit() // len(group.ranks_of(group.pod)))


@dataclass(frozen=True, slots=True)
class RankState:
    """One process. resident_bytes: 0 when it has ended."""

    rank: int
    is_ready: bool
    resident_bytes: int


class LocalRanks:
    """All ranks of this pod but rank 0, which is the caller's own."""

    def __init__(self, config: EngineConfig, rendezvous: str, folder: Path | None = None) -> None:
        """Starts them. In `folder`, if given, each keeps a file from when it has loaded."""
        self._folder = folder
        self._terminated_at: float | None = None
        group = msgspec.structs.replace(config.group, rendezvous=rendezvous)
        settings = msgspec.json.encode(msgspec.structs.replace(config, group=group)) + b"\n"
        self.ranks = [rank for rank in group.ranks_of(group.pod) if rank > 0]
        self._processes = [self._start(rank, settings) for rank in self.ranks]

    @property
    def are_ready(self) -> bool:
        return all(map(self._is_ready, self.ranks))

    def trouble(self) -> str:
        """Which rank will do nothing more, though it has not ended; empty if none is known to."""
        for rank, process in zip(self.ranks, self._processes, strict=True):
            if _is_stopped(process):
                return f"rank {rank} was stopped"
        if self._folder is not None and self.are_ready:
            beats = {rank: (self._folder / str(rank)).stat().st_mtime for rank in self.ranks}
            rank = min(beats, key=beats.__getitem__)
            if time.monotonic() - beats[rank] > _SILENCE_SECONDS:
                return f"rank {rank} fell silent"
        return ""

    @property
    def seconds_leaving(self) -> float:
        """Since SIGTERM; 0 before."""
        return 0.0 if self._terminated_at is None else time.monotonic() - self._terminated_at

    def states(self) -> list[RankState]:
        """Of each, now."""
        return [
            RankState(rank, self._is_ready(rank), resident_bytes(process.pid))
            for rank, process in zip(self.ranks, self._processes, strict=True)
        ]

    def exit_code(self) -> int | None:
        """Of a rank that has ended, if any has."""
        codes = (process.poll() for process in self._processes)
        return next((code for code in codes if code is not None), None)

    def terminate(self) -> None:
        """Tells the group to drain."""
        self._terminated_at = self._terminated_at or time.monotonic()
        for process in self._processes:
            process.terminate()

    def kill(self) -> None:
        """Ends them all, even one that was stopped."""
        for process in self._processes:
            process.kill()
            if process.stdin is not None:
                process.stdin.close()

    def end(self) -> None:
        """Until they have gone; but a driver that has lost its GPU may hold one for ever."""
        self.kill()
        for rank, process in zip(self.ranks, self._processes, strict=True):
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                log.warning("rank does not end", extra={"fields": {"rank": rank}})

    def _is_ready(self, rank: int) -> bool:
        return self._folder is not None and (self._folder / str(rank)).exists()

    def _start(self, rank: int, settings: bytes) -> subprocess.Popen[bytes]:
        ready_file = [] if self._folder is None else [str(self._folder / str(rank))]
        command = [sys.executable, "-m", _MODULE, str(rank), *ready_file]
        process = subprocess.Popen(  # noqa: S603 - our own module
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the process that drains the group
        )
        if process.stdin is not None:
            process.stdin.write(settings)
            process.stdin.flush()  # it stays open: its end means that this process has ended
        return process
