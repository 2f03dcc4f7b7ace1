"""The kind provider: Kubernetes in Docker containers, where a Docker daemon answers.

Images are real here: built from the Dockerfiles of operator and engine and loaded into the
nodes. The rest is what `embedded` offers: the same kubeconfig path, tools and Prometheus. This
file could not be run on the machines that this project is developed on, which have no Docker;
the workflow on GitHub runs it.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster import kubectl, manifests, places, toolchain
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import step
from e2e.cluster.provider import Part
from e2e.cluster.shell import run

CLUSTER = "openinference"
# Prometheus' own image on Docker's registry; the embedded cluster takes Debian's build instead.
_PROMETHEUS = "prom/prometheus:v2.53.4"
_KIND = "sigs.k8s.io/kind@v0.30.0"
_BUILT = ("operator", "engine")


class KindProvider:
    """A cluster of Docker containers; see `provider.Provider` for what each method promises."""

    name = "kind"

    def up(self, nodes: int) -> None:
        _ensure_tools()
        if CLUSTER not in run("kind", "get", "clusters", environment=_path()).split():
            self._create(nodes)
        run(
            *_kind("export", "kubeconfig"),
            f"--kubeconfig={places.kubeconfig()}",
            environment=_path(),
        )
        _require_nodes(nodes)
        self.load(["dev"])
        with step("Prometheus"):
            home, python = home_node(_node_names()), "openinference/engine:dev"
            manifests.apply(manifests.prometheus(_PROMETHEUS, python, first_node=home))
            kubectl.wait_for_rollout("monitoring", "prometheus", timeout_seconds=300)

    def load(self, tags: Sequence[str]) -> None:
        for part in _BUILT:
            references = [f"openinference/{part}:{tag}" for tag in tags]
            with step(f"Image {', '.join(references)}"):
                _build(part, references)
                run(*_kind("load", "docker-image"), *references, environment=_path())

    def kubeconfig(self) -> Path:
        return places.kubeconfig()

    def add_node(self) -> str:
        raise ClusterError(
            "kind cannot add a node to a running cluster; run `down`, then `up --nodes` with "
            "the number you need."
        )

    def parts(self) -> list[Part]:
        return [_part(name) for name in _node_names()]

    def down(self) -> None:
        with step("Removing the cluster"):
            run(*_kind("delete", "cluster"), environment=_path())
            places.kubeconfig().unlink(missing_ok=True)

    def _create(self, nodes: int) -> None:
        roles = ["control-plane", *["worker"] * (nodes - 1)]
        settings = {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "nodes": [{"role": role} for role in roles],
        }
        places.kubeconfig().parent.mkdir(parents=True, exist_ok=True)
        with step(f"Cluster of {nodes} Docker containers"):
            command = (*_kind("create", "cluster"), "--wait=180s", "--config=-")
            run(
                *command,
                f"--kubeconfig={places.kubeconfig()}",
                stdin=json.dumps(settings),
                environment=_path(),
                timeout_seconds=900,
            )


def home_node(names: Sequence[str]) -> str:
    """The node for what must outlive a drain: with workers, kind lets none of it on the first."""
    workers = sorted(name for name in names if "worker" in name)
    return workers[0] if workers else names[0]


def _node_names() -> list[str]:
    return run(*_kind("get", "nodes"), environment=_path()).split()


def _kind(*words: str) -> tuple[str, ...]:
    return ("kind", *words, f"--name={CLUSTER}")


def _path() -> dict[str, str]:
    return {"PATH": kubectl.environment()["PATH"]}


def _ensure_tools() -> None:
    """Take kind, kubectl and helm from PATH, or compile the ones that are missing."""
    modules = places.SOURCES / "components"
    pinned = {"kubectl": "k8s.io/kubernetes/cmd/kubectl", "helm": "helm.sh/helm/v3/cmd/helm"}
    target = {**toolchain.ENVIRONMENT, "GOBIN": str(places.tools())}
    for name in ("kind", *pinned):
        if shutil.which(name, path=_path()["PATH"]):
            continue
        with step(f"Compiling {name}"):
            folder = ("-C", str(modules)) if name in pinned else ()
            package = pinned.get(name, _KIND)
            run(
                str(toolchain.ensure_go()),
                *folder,
                "install",
                package,
                environment=target,
                timeout_seconds=1800,
            )


def _build(part: str, references: Sequence[str]) -> None:
    tags = [f"--tag={reference}" for reference in references]
    dockerfile = f"--file={places.PROJECT / part / 'Dockerfile'}"
    # The label makes the digests of two tags differ, as those of two builds would.
    label = f"--label=openinference.dev/references={','.join(references)}"
    run("docker", "build", *tags, label, dockerfile, str(places.PROJECT), timeout_seconds=3600)


def _require_nodes(nodes: int) -> None:
    present = len(_node_names())
    if present < nodes:
        raise ClusterError(
            f"The kind cluster has {present} nodes and cannot grow to {nodes}; run `down` first."
        )


def _part(name: str) -> Part:
    state = run("docker", "inspect", "--format={{.State.Status}}", name).strip()
    return Part(name, state, is_healthy=state == "running")
