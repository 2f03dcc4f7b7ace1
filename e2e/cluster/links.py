"""The wires between the host and the nodes.

A star: the host is linked to node 1, every further node to node 1 as well, each by a veth pair
with two routes. Every packet is routed, none is translated, so a pod has one address everywhere.
The default route of node 1 ends at the host, which forwards nothing: no packet leaves the
machine. (A blackhole route instead would also swallow service addresses on the node itself.)
All commands are idempotent, so the same code makes links and mends them.
"""

from e2e.cluster import namespaces
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.shell import run, succeeds

HOST_LINK = "openinference"
_UPLINK = "uplink"  # the name of a node's own end


def ensure_host_link(plan: AddressPlan) -> None:
    """Link node 1 with the host, and route pods and services of the cluster there."""
    if not succeeds("ip", "link", "show", HOST_LINK):
        run(*_new_pair(HOST_LINK, node=1))
    gateway = str(plan.node(1))
    run("ip", "address", "replace", str(plan.host), "peer", gateway, "dev", HOST_LINK)
    run("ip", "link", "set", HOST_LINK, "up")
    for network in (plan.pods, plan.services, plan.nodes):
        run("ip", "route", "replace", str(network), "via", gateway, "dev", HOST_LINK)
    _ensure_uplink(plan, node=1, peer=str(plan.host))


def ensure_node_link(plan: AddressPlan, node: int) -> None:
    """Link a further node with node 1, and route its pods there."""
    name, address = f"node-{node}", str(plan.node(node))
    if not succeeds(*namespaces.in_network(1, "ip", "link", "show", name)):
        run(*namespaces.in_network(1, *_new_pair(name, node)))
    for command in (
        ("ip", "address", "replace", str(plan.node(1)), "peer", address, "dev", name),
        ("ip", "link", "set", name, "up"),
        ("ip", "route", "replace", str(plan.pods_of(node)), "via", address, "dev", name),
    ):
        run(*namespaces.in_network(1, *command))
    _ensure_uplink(plan, node, peer=str(plan.node(1)))


def unplug(node: int) -> None:
    """Nothing reaches the node any more, nor comes from it, and nobody is told; mended by `up`."""
    run(*namespaces.in_network(node, "ip", "link", "set", _UPLINK, "down"))


def remove_host_link() -> None:
    """Remove the host's end; its address, its routes and the other end go with it."""
    if succeeds("ip", "link", "show", HOST_LINK):
        run("ip", "link", "delete", HOST_LINK)


def _new_pair(name: str, node: int) -> tuple[str, ...]:
    far_end = ("peer", "name", _UPLINK, "netns", str(namespaces.network_file(node)))
    return ("ip", "link", "add", name, "type", "veth", *far_end)


def _ensure_uplink(plan: AddressPlan, node: int, peer: str) -> None:
    for command in (
        ("ip", "address", "replace", str(plan.node(node)), "peer", peer, "dev", _UPLINK),
        ("ip", "link", "set", _UPLINK, "up"),
        ("ip", "route", "replace", "default", "via", peer, "dev", _UPLINK),
    ):
        run(*namespaces.in_network(node, *command))
