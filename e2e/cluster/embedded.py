"""The embedded provider: Kubernetes made of our own processes, for root on Linux without Docker.

It only orders what other modules own: programs, namespaces, links, daemons, images, manifests.
`up` states what should be there and every step mends only what differs, so it is at once the
first start, the repair after a crash, and a check that takes a moment.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from shutil import rmtree

from e2e.cluster import (
    addresses,
    certificates,
    cgroups,
    control_plane,
    images,
    kubectl,
    links,
    manifests,
    namespaces,
    node_agents,
    places,
    processes,
    programs,
    runtime,
    state,
)
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import step
from e2e.cluster.provider import Part
from e2e.cluster.state import ClusterState


class EmbeddedProvider:
    """A cluster below `places.STATE`; see `provider.Provider` for what each method promises."""

    name = "embedded"

    def up(self, nodes: int) -> None:
        built = programs.ensure_built()
        cluster = self._adopt_or_begin(nodes)
        for node in range(1, cluster.nodes + 1):
            _ensure_node_exists(cluster, node)
        self._start_control_plane(built, cluster)
        with step(_nodes_title(cluster)):
            for node in range(1, cluster.nodes + 1):
                _start_node(built, cluster, node)
            kubectl.wait_for_nodes([f"node-{node}" for node in range(1, cluster.nodes + 1)])
        with step("CoreDNS and Prometheus"):
            self._install(cluster)

    def load(self, tags: Sequence[str]) -> None:
        cluster = _running_cluster()
        names = images.references(tags)
        with step(f"Images under {', '.join(tags)}"):
            for node in range(1, cluster.nodes + 1):
                images.load(node, names)

    def kubeconfig(self) -> Path:
        return places.kubeconfig()

    def add_node(self) -> str:
        cluster = _running_cluster()
        self.up(cluster.nodes + 1)
        return f"node-{cluster.nodes + 1}"

    def parts(self) -> list[Part]:
        found = sorted(path.stem for path in places.PROCESSES.glob("*.json"))
        return [_part(name) for name in found]

    def down(self) -> None:
        with step("Removing the cluster"):
            _remove_everything()

    def _adopt_or_begin(self, nodes: int) -> ClusterState:
        """Go on with this checkout's cluster of this boot, or clean up and begin a new one."""
        cluster = state.load()
        if cluster is None or not namespaces.exist(1):
            _remove_everything()
            cluster = ClusterState(addresses.choose_plan(addresses.occupied_networks()), nodes)
        cluster = ClusterState(cluster.plan, max(nodes, cluster.nodes))
        state.save(cluster)
        return cluster

    def _start_control_plane(self, built: Path, cluster: ClusterState) -> None:
        certificates.ensure_authority()
        _write_kubeconfig(cluster)
        with step("Control plane"):
            daemons = control_plane.daemons(built / "cluster", cluster.plan)
            for daemon in daemons:
                processes.ensure_running(daemon)
            _wait_for_api(daemons)

    def _install(self, cluster: ClusterState) -> None:
        manifests.apply(manifests.coredns(cluster.plan))
        prometheus, python = "openinference/prometheus:dev", "openinference/engine:dev"
        manifests.apply(manifests.prometheus(prometheus, python, first_node="node-1"))
        kubectl.wait_for_rollout("kube-system", "coredns")
        kubectl.wait_for_rollout("monitoring", "prometheus")


def _nodes_title(cluster: ClusterState) -> str:
    return "Node" if cluster.nodes == 1 else f"{cluster.nodes} nodes"


def _running_cluster() -> ClusterState:
    cluster = state.load()
    if cluster is None:
        raise ClusterError("No cluster is running; start one with `python -m e2e.cluster up`.")
    return cluster


def _ensure_node_exists(cluster: ClusterState, node: int) -> None:
    """Make the node's namespaces, link and control groups, whichever of them are missing."""
    if not namespaces.exist(node):
        _remove_node(node)
        namespaces.create(node)
    cgroups.create(node)
    if node == 1:
        links.ensure_host_link(cluster.plan)
    else:
        links.ensure_node_link(cluster.plan, node)


def _start_node(built: Path, cluster: ClusterState, node: int) -> None:
    """Start containerd first and fill it, so that the kubelet finds its images."""
    runtime_daemon, *agents = node_agents.daemons(built / "cluster", cluster.plan, node)
    was_started = processes.ensure_running(runtime_daemon)
    runtime.wait_until_serving(node)
    images.ensure_loaded(node, built, fresh=was_started)
    for agent in agents:
        processes.ensure_running(agent)


def _wait_for_api(daemons: Sequence[processes.Daemon]) -> None:
    deadline = time.monotonic() + 180
    while not kubectl.api_is_ready():
        for daemon in daemons:
            processes.require_running(daemon)
        if time.monotonic() > deadline:
            raise ClusterError(f"The API server is not ready after 180 s; see {places.LOGS}.")
        time.sleep(0.2)


def _write_kubeconfig(cluster: ClusterState) -> None:
    administrator = certificates.ensure("openinference-admin", ["system:masters"])
    path = places.kubeconfig()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(certificates.kubeconfig(cluster.plan.api_url, administrator))


def _part(name: str) -> Part:
    pid = processes.running_pid(name)
    return Part(name, f"pid {pid}" if pid else "dead", is_healthy=pid is not None)


def _remove_everything() -> None:
    """Leave the machine as it was: processes, namespaces, links, control groups, files."""
    cgroups.kill()
    # Before the namespaces: with them the link would go too, at a moment the kernel chooses.
    links.remove_host_link()
    for home in places.STATE.glob("node-*"):
        namespaces.remove(int(home.name.removeprefix("node-")))
    cgroups.remove()
    namespaces.remove_mount_points()
    if places.STATE.exists():
        rmtree(places.STATE)
    places.kubeconfig().unlink(missing_ok=True)


def _remove_node(node: int) -> None:
    """End one node that has lost its namespaces, so that it can be made anew."""
    cgroups.kill(cgroups.node_root(node).lstrip("/"))
    namespaces.remove(node)
    if namespaces.home(node).exists():
        rmtree(namespaces.home(node))
