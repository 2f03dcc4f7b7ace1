"""The Debian packages that the embedded cluster is made of, installed where they are missing.

They carry what is neither Kubernetes nor ours: the container runtime, network plugins, the
firewall tools behind services, and Prometheus.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import step
from e2e.cluster.shell import run, succeeds

# A program (or file) that each package brings; asking for it works on any distribution.
_PROVIDES = {
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "iproute2": "ip",
    "iptables": "iptables",
    "mount": "mount",
    "openssl": "openssl",
    "procps": "sysctl",
    "prometheus": "prometheus",
    "runc": "runc",
    "util-linux": "nsenter",
}


# What some of them would start at the next boot.
_SERVICES = {"containerd": "containerd.service", "prometheus": "prometheus.service"}
_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}
# A machine that has just booted may be upgrading itself.
_APT = ("apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300")


def missing() -> tuple[str, ...]:
    """The packages whose program is not there."""
    return tuple(name for name, program in _PROVIDES.items() if shutil.which(program) is None)


def install(names: tuple[str, ...]) -> None:
    """Install packages without starting their services, now or at the next boot.

    One broken source fails the whole update, so only the installation decides; both are told.
    """
    with step(f"Installing Debian packages: {' '.join(names)}"), _services_held_back():
        obstacle = _update()
        try:
            command = (*_APT, "install", "--yes", "--no-install-recommends", *names)
            run(*command, environment=_ENVIRONMENT, timeout_seconds=1800)
        except ClusterError as error:
            raise ClusterError(f"{obstacle} {error}".strip()) from error
        for name in _SERVICES.keys() & set(names):
            succeeds("systemctl", "disable", _SERVICES[name])  # without systemd, nothing to do


def _update() -> str:
    """Read the lists of packages anew; return what was wrong with them."""
    try:
        run(*_APT, "update", environment=_ENVIRONMENT, timeout_seconds=600)
    except ClusterError as error:
        return str(error)
    return ""


@contextmanager
def _services_held_back() -> Iterator[None]:
    """Debian asks this script before it starts a service; ours says no and is gone again.

    Otherwise installing would leave a Prometheus and a containerd running on the host.
    """
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
