"""Which IPv4 addresses the cluster uses.

One /16 is cut into pods, services and nodes, so choosing addresses means choosing one block
that no route or interface of the host touches. A candidate below a wide route (a VPN that
owns 10.0.0.0/8, say) is passed over too: it would hide somebody's real machines.
"""

import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from e2e.cluster.errors import UnsupportedMachine
from e2e.cluster.shell import run

MAX_NODES = 100  # node n owns the n-th /24 of the pods' 128

# High 10.x blocks are rarely in use; 198.18.0.0/15 is set aside for tests (RFC 2544) and serves
# machines whose VPN claims all private ranges.
CANDIDATES = tuple(
    IPv4Network(block)
    for block in (
        *(f"10.{second}.0.0/16" for second in range(244, 250)),
        "172.31.0.0/16",
        "198.18.0.0/16",
        "198.19.0.0/16",
    )
)


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """How a /16 is divided; all other addresses of the cluster follow from it."""

    block: IPv4Network

    @property
    def pods(self) -> IPv4Network:
        return next(self.block.subnets(new_prefix=17))

    @property
    def services(self) -> IPv4Network:
        return list(self.block.subnets(new_prefix=18))[2]

    @property
    def nodes(self) -> IPv4Network:
        return list(self.block.subnets(new_prefix=24))[255]

    @property
    def api_service(self) -> IPv4Address:
        return self.services[1]

    @property
    def dns_service(self) -> IPv4Address:
        return self.services[10]

    @property
    def host(self) -> IPv4Address:
        """The host's end of the link into the first node."""
        return self.nodes[254]

    @property
    def api_url(self) -> str:
        return f"https://{self.node(1)}:6443"

    def node(self, number: int) -> IPv4Address:
        return self.nodes[number]

    def pods_of(self, number: int) -> IPv4Network:
        return list(self.pods.subnets(new_prefix=24))[number]


def choose_plan(occupied: Iterable[IPv4Network]) -> AddressPlan:
    """Take the first candidate that overlaps nothing the host already uses."""
    taken = list(occupied)
    for candidate in CANDIDATES:
        if not any(candidate.overlaps(network) for network in taken):
            return AddressPlan(candidate)
    names = ", ".join(str(candidate) for candidate in CANDIDATES)
    raise UnsupportedMachine(
        f"All address ranges the cluster could use are taken by this machine's routes ({names}); "
        "free one of them, for example by leaving a VPN."
    )


def occupied_networks() -> list[IPv4Network]:
    """Ask the host for the networks of its routes and interfaces."""
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all"))
    links = json.loads(run("ip", "-json", "-4", "address", "show"))
    return [*networks_of_routes(routes), *networks_of_links(links)]


def networks_of_routes(routes: Iterable[dict[str, str]]) -> Iterator[IPv4Network]:
    """Read `ip -json route`; default routes claim nothing in particular and are skipped."""
    for route in routes:
        if route["dst"] not in ("default", "0.0.0.0/0"):
            yield ipaddress.IPv4Network(route["dst"])


def networks_of_links(links: Iterable[dict[str, list[dict[str, str]]]]) -> Iterator[IPv4Network]:
    """Read `ip -json address`."""
    for link in links:
        for address in link.get("addr_info", []):
            yield ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network
