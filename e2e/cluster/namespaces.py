"""A node's own view of network and mounts, kept alive by two files rather than by a process.

The network namespace gives each node its own addresses, ports and iptables, so nothing here can
collide with what the host runs. The mount namespace keeps everything kubelet and containerd
mount away from the host and gives them private copies of the paths they hard-code. When a
node's processes are dead and the two files unmounted, the kernel takes all of it back: pod
networks, tmpfs secrets and overlays included.
"""

from pathlib import Path

from e2e.cluster import places
from e2e.cluster.shell import run

# kubelet, CNI and containerd's shims use these whatever they are told; another cluster may too.
_PRIVATE_PATHS = ("/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers")


def home(node: int) -> Path:
    """The folder of everything that belongs to one node."""
    return places.STATE / f"node-{node}"


def network_file(node: int) -> Path:
    return _folder(node) / "network"


def inside(node: int, *command: str) -> tuple[str, ...]:
    """The command line that runs a command as the node sees the world."""
    mount = _folder(node) / "mount"
    return ("nsenter", f"--net={network_file(node)}", f"--mount={mount}", "--", *command)


def in_network(node: int, *command: str) -> tuple[str, ...]:
    """The command line that runs a command in a node's network, with the host's files."""
    return ("nsenter", f"--net={network_file(node)}", "--", *command)


def exist(node: int) -> bool:
    """Say whether both namespaces are there, and were set up to the end."""
    mounted = Path("/proc/self/mountinfo").read_text()
    are_pinned = all(f" {_folder(node) / name} " in mounted for name in ("network", "mount"))
    return are_pinned and _completion_mark(node).exists()


def create(node: int) -> None:
    """Make both namespaces, bind the private paths and switch forwarding on."""
    folder = _folder(node)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("network", "mount"):
        (folder / name).touch()
    # A mount namespace can only be pinned below a mount that is not shared with others.
    run("mount", "--bind", str(folder), str(folder))
    run("mount", "--make-private", str(folder))
    run(
        "unshare",
        f"--net={folder / 'network'}",
        f"--mount={folder / 'mount'}",
        "--propagation=slave",
        *("mount", "--make-rshared", "/"),
    )
    for path in _PRIVATE_PATHS:
        _bind_private(node, path)
    run(*in_network(node, "ip", "link", "set", "lo", "up"))
    # Pods on one bridge reach each other through a service only if bridged packets pass iptables.
    for switch in ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"):
        run(*in_network(node, "sysctl", "--quiet", "--write", switch))
    _completion_mark(node).touch()


def remove(node: int) -> None:
    """Let go of the namespaces; their content ends with the last process inside."""
    folder = _folder(node)
    mounted = Path("/proc/self/mountinfo").read_text()
    for path in (folder / "network", folder / "mount", folder):
        for _ in range(mounted.count(f" {path} ")):
            run("umount", str(path))


def remove_mount_points() -> None:
    """Remove the empty folders that the private paths were bound on, if nobody else uses them."""
    for path in map(Path, _PRIVATE_PATHS):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _folder(node: int) -> Path:
    return home(node) / "namespaces"


def _completion_mark(node: int) -> Path:
    return _folder(node) / "complete"


def _bind_private(node: int, path: str) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)
    source = home(node) / "private" / path.lstrip("/").replace("/", "-")
    source.mkdir(parents=True, exist_ok=True)
    run(*inside(node, "mount", "--bind", str(source), path))
