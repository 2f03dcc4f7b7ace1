"""The command lines and configuration of a node's daemons: containerd, kubelet, kube-proxy.

Like `control_plane`, it describes and starts nothing. Each node has its own copy of all three
below its own folder; settings files are written in JSON, which is YAML to their readers.
"""

import json
from pathlib import Path

from e2e.cluster import certificates, cgroups, namespaces, runtime
from e2e.cluster.addresses import AddressPlan
from e2e.cluster.processes import Daemon


def daemons(program: Path, plan: AddressPlan, node: int) -> list[Daemon]:
    """All daemons of a node, in the order in which they need each other."""
    return [
        runtime.containerd(plan, node, program.parent),
        kubelet(program, plan, node),
        kube_proxy(program, plan, node),
    ]


def kubelet(program: Path, plan: AddressPlan, node: int) -> Daemon:
    """The agent that runs the node's pods."""
    home = namespaces.home(node)
    access = home / "kubelet.kubeconfig"
    settings = home / "kubelet.json"
    identity = certificates.kubelet(plan, node)
    command = (
        str(program),
        "kubelet",
        f"--config={settings}",
        f"--kubeconfig={access}",
        f"--hostname-override=node-{node}",
        f"--node-ip={plan.node(node)}",
        f"--root-dir={home / 'kubelet'}",
    )
    files = {
        access: certificates.kubeconfig(plan.api_url, identity),
        settings: json.dumps(_kubelet_settings(plan, node), indent=2),
    }
    return Daemon(f"kubelet-{node}", node, command, files)


def kube_proxy(program: Path, plan: AddressPlan, node: int) -> Daemon:
    """The writer of the iptables rules behind service addresses."""
    home = namespaces.home(node)
    access = home / "kube-proxy.kubeconfig"
    settings = home / "kube-proxy.json"
    command = (str(program), "kube-proxy", f"--config={settings}")
    client = certificates.ensure("system:kube-proxy")
    files = {
        access: certificates.kubeconfig(plan.api_url, client),
        settings: json.dumps(_kube_proxy_settings(plan, node, access), indent=2),
    }
    return Daemon(f"kube-proxy-{node}", node, command, files)


def _kubelet_settings(plan: AddressPlan, node: int) -> dict[str, object]:
    home = namespaces.home(node)
    identity = certificates.kubelet(plan, node)
    authority = str(certificates.AUTHORITY.certificate)
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups.node_root(node),
        "clusterDNS": [str(plan.dns_service)],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": f"unix://{runtime.socket(node)}",
        "enforceNodeAllocatable": [],
        # A developer's disk is often nearly full; pods are evicted only when it really is.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        "failCgroupV1": False,
        "failSwapOn": False,
        # Our images cannot be pulled again, so none is ever collected.
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": str(home / "pod-logs"),
        "readOnlyPort": 0,
        # Empty: pods ask CoreDNS alone and never the host's name servers.
        "resolvConf": "",
        "tlsCertFile": str(identity.certificate),
        "tlsPrivateKeyFile": str(identity.key),
        "volumePluginDir": str(home / "volume-plugins"),
    }


def _kube_proxy_settings(plan: AddressPlan, node: int, access: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(access)},
        "clusterCIDR": str(plan.pods),
        # Zero leaves the kernel's limits as they are; they belong to the host.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpCloseWaitTimeout": "0s",
            "tcpEstablishedTimeout": "0s",
        },
        "hostnameOverride": f"node-{node}",
        "mode": "iptables",
    }
