"""Everything a cluster could leave behind on a machine, and the proof that it leaves nothing.

`python -m e2e.cluster.footprint` records it, brings a cluster of two nodes up, takes it down and
compares. Nothing here knows what the cluster makes: the footprint is read from the kernel, so
a trace of some future part is found as well.
"""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from e2e.cluster import cgroups, places
from e2e.cluster.embedded import EmbeddedProvider
from e2e.cluster.progress import console
from e2e.cluster.shell import run

# Folders in which container software leaves files although it was told to work elsewhere.
_WATCHED_FOLDERS = ("/etc/cni", "/opt", "/run", "/usr/libexec", "/var/lib", "/var/log")


@dataclass(frozen=True, slots=True)
class Footprint:
    """What can be seen of a cluster from outside, as sets of lines."""

    addresses: frozenset[str]
    control_groups: frozenset[str]
    files: frozenset[str]
    firewall: frozenset[str]
    mounts: frozenset[str]
    processes: frozenset[str]
    routes: frozenset[str]

    def beyond(self, earlier: "Footprint") -> dict[str, list[str]]:
        """What is there now and was not earlier, by kind."""
        added = {
            field.name: sorted(getattr(self, field.name) - getattr(earlier, field.name))
            for field in fields(self)
        }
        return {kind: lines for kind, lines in added.items() if lines}


def take() -> Footprint:
    """Read the machine's present footprint."""
    addresses = json.loads(run("ip", "-json", "address", "show"))
    groups = [path for root in cgroups.hierarchies() for path in root.rglob("*") if path.is_dir()]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    watched = [path for folder in _WATCHED_FOLDERS for path in Path(folder).glob("*")]
    return Footprint(
        addresses=frozenset(link["ifname"] for link in addresses),
        control_groups=frozenset(map(str, groups)),
        files=frozenset(map(str, watched)),
        firewall=frozenset(_firewall_rules()),
        mounts=frozenset(line.split()[4] for line in mounts),
        processes=frozenset(_command_lines()),
        routes=frozenset(run("ip", "route", "show", "table", "all").splitlines()),
    )


def main() -> int:
    """Bring a cluster up and down between two footprints; the exit code says if they differ."""
    if places.CLUSTER_RECORD.exists():
        console.print("[red]✗[/] A cluster is up; this check needs to start one of its own.")
        return 2
    cluster = EmbeddedProvider()
    before = take()
    cluster.up(nodes=2)
    cluster.down()
    time.sleep(1)  # the kernel frees network namespaces in the background
    left = take().beyond(before)
    for kind, lines in left.items():
        console.print(f"[red]✗[/] {kind}: {', '.join(lines)}")
    if not left:
        console.print("[green]✓[/] Nothing is left.")
    return 1 if left else 0


def _firewall_rules() -> Iterator[str]:
    """All rules and chains; comments and the counters of chains differ from call to call."""
    for line in run("iptables-save").splitlines():
        if not line.startswith("#"):
            yield line.partition(" [")[0]


def _command_lines() -> Iterator[str]:
    """The daemons of any cluster; what else starts on a machine is its own business."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word in line for word in (str(places.STATE), "containerd", "kube", "/pause")):
            yield line


if __name__ == "__main__":
    sys.exit(main())
