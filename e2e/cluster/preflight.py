"""What this machine can do, and one sentence with the remedy where it cannot.

`observe` looks at the machine and changes nothing; `choose` and `obstacles` are pure functions
of what it saw. So every message is testable, and the user hears of an obstacle before anything
was started, not after.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import cgroups, packages, places, programs, runtime
from e2e.cluster.errors import UnsupportedMachine
from e2e.cluster.provider import ProviderName
from e2e.cluster.shell import succeeds

_GIB = 2**30
# Measured: the module and build caches of Go take 5 GiB, a running cluster 0.5 GiB.
BUILD_BYTES = 6 * _GIB
RUN_BYTES = 1 * _GIB


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts about a machine that decide which cluster it can carry."""

    is_linux: bool
    is_root: bool
    docker_answers: bool
    can_make_namespaces: bool
    can_make_control_groups: bool
    has_bridge_filter: bool
    has_apt: bool
    missing_packages: tuple[str, ...]
    free_bytes: int
    free_state_bytes: int
    is_built: bool
    hidden_in_pods: tuple[Path, ...] = ()
    closed_to_pods: tuple[Path, ...] = ()

    @property
    def needed_bytes(self) -> int:
        return RUN_BYTES if self.is_built else RUN_BYTES + BUILD_BYTES


def observe() -> Machine:
    """Look at this machine. Namespaces are tried out, because no setting tells for sure."""
    is_root = os.geteuid() == 0
    return Machine(
        is_linux=sys.platform == "linux",
        is_root=is_root,
        docker_answers=succeeds("docker", "info"),
        can_make_namespaces=is_root and succeeds("unshare", "--net", "--mount", "true"),
        can_make_control_groups=is_root and cgroups.are_writable(),
        has_bridge_filter=is_root and _has_bridge_filter(),
        has_apt=shutil.which("apt-get") is not None,
        missing_packages=packages.missing() if is_root else (),
        free_bytes=_free_bytes(places.cache()),
        free_state_bytes=_free_bytes(places.STATE),
        is_built=programs.are_built(),
        hidden_in_pods=tuple(runtime.hidden_in_pods(runtime.host_folders())),
        closed_to_pods=tuple(filter(_is_closed, (*runtime.host_folders(), places.SOURCES))),
    )


def choose(wished: ProviderName, machine: Machine) -> ProviderName:
    """Decide for a provider: as wished, else kind where Docker answers, else embedded."""
    if wished is not ProviderName.AUTO:
        return wished
    if machine.docker_answers:
        return ProviderName.KIND
    if machine.is_linux and machine.is_root:
        return ProviderName.EMBEDDED
    raise UnsupportedMachine(
        "A local cluster needs either a running Docker or root on Linux, and this machine offers "
        "neither; start Docker, or run the command as root."
    )


def check(provider: ProviderName, machine: Machine) -> None:
    """Raise the first obstacle, if there is one."""
    for obstacle in obstacles(provider, machine):
        raise UnsupportedMachine(obstacle)


def obstacles(provider: ProviderName, machine: Machine) -> Iterator[str]:
    """All reasons why this provider cannot start on this machine, each with its remedy."""
    if provider is ProviderName.KIND:
        yield from _kind_obstacles(machine)
    else:
        yield from _embedded_obstacles(machine)
    if machine.free_bytes < machine.needed_bytes:
        yield (
            f"The cluster needs {machine.needed_bytes / _GIB:.0f} GiB of free disk below "
            f"{places.cache()}, and there are {machine.free_bytes / _GIB:.1f}; free some, or set "
            "XDG_CACHE_HOME to a folder on a larger disk."
        )


def _kind_obstacles(machine: Machine) -> Iterator[str]:
    if not machine.docker_answers:
        yield "No Docker daemon answers; start Docker, or run as root with --provider embedded."


def _embedded_obstacles(machine: Machine) -> Iterator[str]:
    if not machine.is_linux:
        yield "The embedded cluster runs on Linux only; start Docker to use kind instead."
    elif not machine.is_root:
        yield "The embedded cluster needs root; run the command as root, or start Docker."
    elif not machine.can_make_namespaces:
        yield (
            "The kernel does not let us make network and mount namespaces; inside a container, "
            "start that container with --privileged."
        )
    elif not machine.can_make_control_groups:
        yield (
            "The control groups below /sys/fs/cgroup are missing or read-only; inside a container, "
            "start that container with --privileged --cgroupns=private."
        )
    elif machine.missing_packages and not machine.has_apt:
        yield (
            f"These Debian packages are missing: {' '.join(machine.missing_packages)}; install "
            "what your distribution calls them."
        )
    elif not machine.has_bridge_filter:
        yield "The kernel module br_netfilter is missing; load it with `modprobe br_netfilter`."
    if machine.free_state_bytes < RUN_BYTES:
        yield (
            f"A running cluster needs {RUN_BYTES / _GIB:.0f} GiB of free disk below "
            f"{places.STATE}, and there are {machine.free_state_bytes / _GIB:.1f}; free some."
        )
    for path in machine.hidden_in_pods:
        yield (
            f"Pods mount something of their own over {path}, which holds the checkout or its "
            "Python; move that to another folder."
        )
    for path in machine.closed_to_pods:
        yield (
            f"Pods run as another user, who may not read {path}; open the folder it belongs to "
            "with `chmod -R go+rX`."
        )


def _has_bridge_filter() -> bool:
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return switch.exists() or (succeeds("modprobe", "br_netfilter") and switch.exists())


def _is_closed(path: Path) -> bool:
    """Say whether others may not read a file, or not enter a folder (a clone with umask 077)."""
    needed = 0o5 if path.is_dir() else 0o4
    return path.stat().st_mode & needed != needed


def _free_bytes(path: Path) -> int:
    """The free space of the disk that a folder is on, or will be."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free
