"""The command lines of the control plane: etcd, API server, controllers, scheduler.

From addresses to `Daemon`s; nothing is started here, only certificates are made where they are
first asked for. All of it runs in the first node's network namespace, so the usual ports are
free whatever the host runs.
"""

from collections.abc import Iterator
from pathlib import Path

from e2e.cluster import certificates, namespaces
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.certificates import AUTHORITY, SERVICE_ACCOUNT_KEY
from e2e.cluster.processes import Daemon

_ETCD_URL = "http://127.0.0.1:2379"
_HOME = namespaces.home(1)

# Local tests create thousands of objects; the defaults (20 and 50 requests per second) are made
# for sharing an API server with many clients.
_FAST_CLIENT = ("--kube-api-qps=200", "--kube-api-burst=400")


def daemons(program: Path, plan: AddressPlan) -> list[Daemon]:
    """All daemons of the control plane, in the order in which they need each other."""
    return [
        etcd(program),
        api_server(program, plan),
        controller_manager(program, plan),
        scheduler(program, plan),
    ]


def etcd(program: Path) -> Daemon:
    """The store. It may lose its last writes in a power cut, which nobody here minds."""
    flags = {
        "data-dir": _HOME / "etcd",
        "listen-client-urls": _ETCD_URL,
        "advertise-client-urls": _ETCD_URL,
        "listen-peer-urls": "http://127.0.0.1:2380",
        "log-level": "warn",
    }
    command = (str(program), "etcd", "--unsafe-no-fsync", *_rendered(flags))
    return Daemon("etcd", 1, command)


def api_server(program: Path, plan: AddressPlan) -> Daemon:
    """The API server, which knows every client by its certificate or service-account token."""
    serving = certificates.api_server(plan)
    to_kubelets = certificates.ensure("kube-apiserver-kubelet-client", ["system:masters"])
    flags = {
        "advertise-address": plan.node(1),
        "allow-privileged": "true",
        "authorization-mode": "Node,RBAC",
        "client-ca-file": AUTHORITY.certificate,
        "enable-admission-plugins": "NodeRestriction",
        "etcd-servers": _ETCD_URL,
        "kubelet-certificate-authority": AUTHORITY.certificate,
        "kubelet-client-certificate": to_kubelets.certificate,
        "kubelet-client-key": to_kubelets.key,
        "kubelet-preferred-address-types": "InternalIP",
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-account-key-file": SERVICE_ACCOUNT_KEY,
        "service-account-signing-key-file": SERVICE_ACCOUNT_KEY,
        "service-cluster-ip-range": plan.services,
        "tls-cert-file": serving.certificate,
        "tls-private-key-file": serving.key,
    }
    command = (str(program), "kube-apiserver", *_rendered(flags))
    return Daemon("kube-apiserver", 1, command, inputs=(serving.certificate,))


def controller_manager(program: Path, plan: AddressPlan) -> Daemon:
    """All controllers. Pod ranges are given to nodes by us, so none are allocated here."""
    access = _access("system:kube-controller-manager", plan)
    flags = {
        "flex-volume-plugin-dir": namespaces.home(1) / "volume-plugins",
        "kubeconfig": next(iter(access)),
        "leader-elect": "false",
        "root-ca-file": AUTHORITY.certificate,
        "service-account-private-key-file": SERVICE_ACCOUNT_KEY,
        "use-service-account-credentials": "true",
    }
    command = (str(program), "kube-controller-manager", *_FAST_CLIENT, *_rendered(flags))
    return Daemon("kube-controller-manager", 1, command, access)


def scheduler(program: Path, plan: AddressPlan) -> Daemon:
    """The scheduler."""
    access = _access("system:kube-scheduler", plan)
    flags = {"kubeconfig": next(iter(access)), "leader-elect": "false"}
    command = (str(program), "kube-scheduler", *_FAST_CLIENT, *_rendered(flags))
    return Daemon("kube-scheduler", 1, command, access)


def _access(user: str, plan: AddressPlan) -> dict[Path, str]:
    """The kubeconfig of a component, as the file it reads."""
    path = _HOME / f"{user.replace(':', '-')}.kubeconfig"
    return {path: certificates.kubeconfig(plan.api_url, certificates.ensure(user))}


def _rendered(flags: dict[str, object]) -> Iterator[str]:
    return (f"--{name}={value}" for name, value in flags.items())
