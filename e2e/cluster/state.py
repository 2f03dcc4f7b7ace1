"""What is remembered between two calls of the command line.

One small JSON file with what cannot be derived: the address block, the number of nodes, the boot
in which they were made, and the checkout whose code the pods run. After a reboot the namespaces,
mounts and processes are gone while the file is still there; and the containers of one checkout
cannot run another's code. A record of either kind is no record of this cluster.
"""

import json
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from e2e.cluster import places
from e2e.cluster.addresses import AddressPlan

FORMAT = 2  # raise when a cluster made by older code cannot be adopted by newer code


@dataclass(frozen=True, slots=True)
class ClusterState:
    """A cluster of this boot: its addresses and how many nodes it has."""

    plan: AddressPlan
    nodes: int


def load() -> ClusterState | None:
    """Read the record; None if there is none, or it is of another boot, checkout or format."""
    try:
        record = json.loads(places.CLUSTER_RECORD.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if record.get("madeBy") != _maker():
        return None
    return ClusterState(AddressPlan(IPv4Network(record["block"])), record["nodes"])


def save(state: ClusterState) -> None:
    """Write the record whole, so that a crash leaves the old one or the new one."""
    record = {
        "madeBy": _maker(),
        "block": str(state.plan.block),
        "nodes": state.nodes,
    }
    places.STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = places.CLUSTER_RECORD.with_suffix(".draft")
    draft.write_text(json.dumps(record))
    draft.replace(places.CLUSTER_RECORD)


def _maker() -> list[str]:
    """What must be the same for a cluster to be adopted."""
    return [str(FORMAT), boot_id(), str(places.PROJECT), str(places.interpreter())]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
