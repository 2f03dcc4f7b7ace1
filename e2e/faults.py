"""Faults that tests inject: programs killed without warning."""

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from e2e.asks import Json
from e2e.kube import Kube


async def kill_programs_of(kube: Kube, pod: Json) -> None:
    """SIGKILL every program of a pod, as the kernel does when memory runs out.

    Returns when they are gone: until then the kernel accepts connections for them, and cuts those.
    On a node that is no process of this machine (kind) the pod is deleted without grace, which
    comes nearest.
    """
    processes = _processes_of(pod["metadata"]["uid"])
    _send(signal.SIGKILL, processes)
    await asyncio.to_thread(_wait_until_gone, processes)
    if not processes:
        name = pod["metadata"]["name"]
        await kube.run("delete", "pod", name, "--grace-period=0", "--force", "--wait=false")


def _wait_until_gone(processes: Iterable[int]) -> None:
    for process in processes:
        while Path(f"/proc/{process}").exists():
            time.sleep(0.01)


def signal_programs_of(pod: Json, number: signal.Signals, *words: str) -> int:
    """Send a signal to every program of a pod, or to those with such words in their command line.

    Returns how many there were on this machine.
    """
    processes = [
        each for each in _processes_of(pod["metadata"]["uid"]) if set(words) <= set(_words(each))
    ]
    _send(number, processes)
    return len(processes)


def _send(number: signal.Signals, processes: Iterable[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):  # it has ended since, perhaps of another's end
            os.kill(process, number)


def _processes_of(pod_uid: str) -> list[int]:
    """Processes whose control group carries the pod's uid, in the spelling of either driver."""
    spellings = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}")
    found = []
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        try:
            groups, name = path.read_text(), path.with_name("comm").read_text().strip()
        except OSError:  # it ended meanwhile
            continue
        if name != "pause" and any(each in groups for each in spellings):
            found.append(int(path.parent.name))
    return found


def _words(process: int) -> list[str]:
    """The command line of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except OSError:
        return []
