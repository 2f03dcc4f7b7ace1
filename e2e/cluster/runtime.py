"""A private containerd for each node, and the base of every container it runs.

No image is built: the images of the project are empty trees (see `images`), and the base
specification mounts the host's /usr, the Python installation, the virtual environment and the
checkout read-only, each at its own path. So a pod runs the very code that is checked out, and
`up` moves no gigabytes. The mounts do not reach sandbox containers, hence the pause image.
"""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from e2e.cluster import namespaces, places
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.errors import ClusterError
from e2e.cluster.processes import Daemon
from e2e.cluster.shell import run, succeeds

SANDBOX_IMAGE = "openinference/pause:dev"
WITHOUT_MOUNTS = "whole"  # the runtime of images that bring their software, see test_images
CLUSTER_PROGRAMS = "/opt/openinference"  # where pods find our compiled programs
_CNI_PLUGINS = "/usr/lib/cni"  # Debian's containernetworking-plugins

# Pods mount something of their own here, over whatever the host has below.
_HIDDEN_IN_PODS = ("/dev", "/models", CLUSTER_PROGRAMS, "/proc", "/scratch", "/sys")

# Without these, programs whose library is chosen by Debian's alternatives do not start.
_LINKER_FILES = ("/etc/alternatives", "/etc/ld.so.cache")


def socket(node: int) -> Path:
    return namespaces.home(node) / "containerd" / "containerd.sock"


def client(node: int, *arguments: str) -> tuple[str, ...]:
    """The command line that asks a node's containerd about the kubelet's containers."""
    address = f"--address={socket(node)}"
    return namespaces.inside(node, "ctr", address, "--namespace=k8s.io", *arguments)


def containerd(plan: AddressPlan, node: int, programs: Path) -> Daemon:
    """The container runtime of a node, with its network and its base specification."""
    home = namespaces.home(node)
    settings, specification = home / "containerd.toml", home / "container.json"
    network = home / "cni" / "openinference.conflist"
    files = {
        settings: _settings(node, specification, network.parent),
        specification: json.dumps(_base_specification(programs), indent=2),
        network: json.dumps(_network(plan, node), indent=2),
    }
    return Daemon(f"containerd-{node}", node, ("containerd", f"--config={settings}"), files)


def wait_until_serving(node: int, timeout_seconds: float = 120) -> None:
    """Return when containerd has loaded the plugin that the kubelet talks to."""
    deadline = time.monotonic() + timeout_seconds
    while not succeeds(*client(node, "images", "list", "--quiet")):
        if time.monotonic() > deadline:
            raise ClusterError(f"containerd of node {node} does not answer; see {places.LOGS}.")
        time.sleep(0.1)


def image_names(node: int) -> set[str]:
    """The images of a node, by the names that pods use."""
    listed = run(*client(node, "images", "list", "--quiet")).split()
    # containerd puts the default registry in front of names without one.
    return {"/".join(name.split("/")[-2:]) for name in listed}


def mounted_paths(paths: Iterable[Path]) -> list[Path]:
    """The fewest folders that hold all given paths and, where they are links, their targets."""
    wanted = sorted({path for given in paths for path in (given, given.resolve())})
    kept: list[Path] = []
    for path in wanted:
        if not any(path.is_relative_to(folder) for folder in kept):
            kept.append(path)
    return kept


def host_folders() -> list[Path]:
    """What every container sees of the host, each at its own path."""
    sources = [Path("/usr"), Path(sys.base_prefix), places.interpreter(), places.PROJECT]
    sources += [path for path in map(Path, _LINKER_FILES) if path.exists()]
    return mounted_paths(sources)


def hidden_in_pods(paths: Iterable[Path]) -> list[Path]:
    """The paths that pods would not see, because they mount something over them."""
    return [path for path in paths if any(map(path.is_relative_to, _HIDDEN_IN_PODS))]


def _settings(node: int, specification: Path, network: Path) -> str:
    home = namespaces.home(node) / "containerd"
    return f"""\
version = 2
root = "{home / "root"}"
state = "{home / "state"}"
disabled_plugins = ["io.containerd.internal.v1.opt"]

[grpc]
address = "{socket(node)}"

[plugins."io.containerd.grpc.v1.cri"]
# A root without CAP_SYS_RESOURCE may not lower its score, and runc fails when asked to.
restrict_oom_score_adj = true
# The namespaces of pods must end with the node's mounts, not stay in /run/netns.
netns_mounts_under_state_dir = true
# CoreDNS listens on port 53 without being root.
enable_unprivileged_ports = true
sandbox_image = "{SANDBOX_IMAGE}"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{_CNI_PLUGINS}"
conf_dir = "{network}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{_snapshotter()}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
base_runtime_spec = "{specification}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{WITHOUT_MOUNTS}]
runtime_type = "io.containerd.runc.v2"
"""


def _snapshotter() -> str:
    """Copying is slower than overlaying, but our images are a few KiB."""
    return "overlayfs" if "\toverlay\n" in Path("/proc/filesystems").read_text() else "native"


def _base_specification(programs: Path) -> dict[str, object]:
    specification: dict[str, object] = json.loads(run("ctr", "oci", "spec"))
    process, mounts = specification["process"], specification["mounts"]
    assert isinstance(process, dict)
    assert isinstance(mounts, list)
    # 1,024 open files would bound the router's streams; without a limit ours is inherited.
    process.pop("rlimits")
    mounts += [_read_only(path, str(path)) for path in host_folders()]
    mounts.append(_read_only(programs, CLUSTER_PROGRAMS))
    specification["mounts"] = [mount for mount in mounts if mount["destination"] != "/run"]
    return specification


def _read_only(source: Path, destination: str) -> dict[str, object]:
    options = ["rbind", "ro", "nosuid", "nodev"]
    return {
        "destination": destination,
        "type": "bind",
        "source": str(source),
        "options": options,
    }


def _network(plan: AddressPlan, node: int) -> dict[str, object]:
    """Pods of a node share a bridge; addresses are routed everywhere, so none is masked."""
    addresses = {
        "type": "host-local",
        "dataDir": str(namespaces.home(node) / "leases"),
        "ranges": [[{"subnet": str(plan.pods_of(node))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        # A pod may reach itself through its own service.
        "hairpinMode": True,
        "ipam": addresses,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "openinference", "plugins": [bridge, ports]}
