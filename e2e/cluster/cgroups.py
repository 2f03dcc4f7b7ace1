"""The control groups of the nodes: one tree per node in every hierarchy of the machine.

They serve two ends. Each kubelet gets its own root, or two kubelets would take each other's
pods for orphans and kill them. And every process of a node starts below its tree, so the tree
is the list of all processes to end when the node goes, containers and their shims included,
however they were started; no pid can be stale or reused.

On cgroup v2 a container sees some inner group as the root, and the kernel lets an inner group
hand controllers down only while it holds no process; so its processes move into a leaf, where
they stay. That path has been tested on files alone, not yet on a machine with cgroup v2.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from e2e.cluster.errors import ClusterError

ROOT = "openinference"
_EVACUATED = "init"
_V2_CONTROLLERS = ("cpuset", "cpu", "io", "memory", "pids", "hugetlb")


def node_root(node: int) -> str:
    """The kubelet's cgroupRoot, relative to each hierarchy."""
    return f"/{ROOT}/node-{node}"


def create(node: int) -> None:
    """Make the tree of a node, with a leaf for the node's own daemons."""
    for hierarchy in hierarchies():
        try:
            _create_below(hierarchy, node)
        except OSError as error:
            raise ClusterError(
                f"No control groups can be made in {hierarchy} ({error.strerror}); inside a "
                "container, start that container with --privileged --cgroupns=private."
            ) from error


def adopt(node: int, pid: int) -> None:
    """Move a daemon that was just started, before it has children, into its node's tree."""
    for hierarchy in hierarchies():
        (hierarchy / ROOT / f"node-{node}" / "system" / "cgroup.procs").write_text(str(pid))


def kill(subtree: str = ROOT) -> None:
    """Kill every process below a subtree and wait until none is left."""
    deadline = time.monotonic() + 120
    while pids := _pids(subtree):
        for pid in pids:
            _kill_process(pid)
        if time.monotonic() > deadline:
            raise ClusterError(f"Processes {sorted(pids)} do not end; look at their stacks.")
        time.sleep(0.05)


def remove(subtree: str = ROOT) -> None:
    """Remove a subtree whose processes are gone; the kernel only takes leaves."""
    for hierarchy in hierarchies():
        folders = [Path(folder) for folder, _, _ in os.walk(hierarchy / subtree, topdown=False)]
        for folder in folders:
            _remove_leaf(folder)


def are_writable() -> bool:
    """Say whether groups can be made: there are hierarchies, and none is mounted read-only."""
    found = hierarchies()
    return bool(found) and all(os.access(hierarchy, os.W_OK) for hierarchy in found)


def hierarchies() -> list[Path]:
    """The mount points of all hierarchies: one on cgroup v2, one per controller on v1."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    mounts = [line.split() for line in lines]
    return [Path(mount[1]) for mount in mounts if mount[2] in ("cgroup", "cgroup2")]


def _create_below(hierarchy: Path, node: int) -> None:
    path = hierarchy
    for part in (ROOT, f"node-{node}", "system"):
        _delegate_controllers(path)
        path = path / part
        path.mkdir(exist_ok=True)
        _fill_cpuset(path)


def _pids(subtree: str) -> set[int]:
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder, _, _ in os.walk(hierarchy / subtree):
            try:
                found.update(map(int, (Path(folder) / "cgroup.procs").read_text().split()))
            except FileNotFoundError:
                continue  # the group ended while we walked
    return found


def _kill_process(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _remove_leaf(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            folder.rmdir()
        except OSError:
            # The kernel reports a killed process's group as busy for a moment longer.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _delegate_controllers(parent: Path) -> None:
    """On cgroup v2 a child has only the controllers that its parent hands down."""
    switch = parent / "cgroup.subtree_control"
    if not switch.exists():
        return
    available = (parent / "cgroup.controllers").read_text().split()
    wanted = [name for name in _V2_CONTROLLERS if name in available]
    if wanted:
        _evacuate(parent)
        switch.write_text(" ".join(f"+{name}" for name in wanted))


def _evacuate(group: Path) -> None:
    """Move the processes of a group into a leaf; the real root, without a type, keeps its own."""
    pids = (group / "cgroup.procs").read_text().split()
    if not pids or not (group / "cgroup.type").exists():
        return
    leaf = group / _EVACUATED
    leaf.mkdir(exist_ok=True)
    for pid in pids:
        with suppress(ProcessLookupError), (leaf / "cgroup.procs").open("a") as members:
            members.write(f"{pid}\n")


def _fill_cpuset(path: Path) -> None:
    """On cgroup v1 a new cpuset is empty and takes no process until it names CPUs and memory."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        own, inherited = path / name, path.parent / name
        if own.exists() and inherited.exists() and not own.read_text().strip():
            own.write_text(inherited.read_text())
