"""The Debian packages that the embedded cluster is made of, installed where they are missing.

They carry what is neither Kubernetes nor ours: the container runtime, network plugins, the
firewall tools behind services, and Prometheus.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.progress import step
from e2e.cluster.shell import run

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


def missing() -> tuple[str, ...]:
    """The packages whose program is not there."""
    return tuple(name for name, program in _PROVIDES.items() if shutil.which(program) is None)


def install(names: tuple[str, ...]) -> None:
    """Install packages without starting the services that some of them bring."""
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"Installing Debian packages: {' '.join(names)}"), _services_held_back():
        run("apt-get", "update", "--quiet", environment=quiet, timeout_seconds=600)
        command = ("apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *names)
        run(*command, environment=quiet, timeout_seconds=1800)


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
