"""Nodes that kwok (kwok.sigs.k8s.io) plays, with `operator_stub` behind all of their pods."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from e2e.asks import Json
from e2e.cluster import namespaces, places, toolchain
from e2e.cluster.places import PROJECT
from e2e.kube import Kube

KWOK = "sigs.k8s.io/kwok/cmd/kwok@v0.7.0"
POD_RANGE = "10.100.0.0/16"
PODS_PER_NODE = 200
FAKE = {"type": "kwok"}


def node(number: int) -> Json:
    """A node that kwok plays."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": f"kwok-{number}",
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {**FAKE, "kubernetes.io/hostname": f"kwok-{number}"},
        },
        "spec": {"taints": [{"key": "kwok", "value": "fake", "effect": "NoSchedule"}]},
        "status": {
            name: {"cpu": "256", "memory": "2Ti", "pods": str(PODS_PER_NODE)}
            for name in ("allocatable", "capacity")
        },
    }


@contextlib.asynccontextmanager
async def fake_nodes(count: int) -> AsyncIterator[None]:
    """Nodes played by kwok, with the stub behind every address of their pods."""
    kwok = ensure_kwok()
    run_inside("ip", "route", "replace", "local", POD_RANGE, "dev", "lo")
    kubectl = Kube("default")
    commands = (
        (
            str(kwok),
            f"--kubeconfig={places.kubeconfig()}",
            "--manage-all-nodes=false",
            "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
            f"--cidr={POD_RANGE}",
            "--node-lease-duration-seconds=40",
        ),
        (sys.executable, "-m", "benchmarks.operator_stub"),
    )
    with contextlib.ExitStack() as stack:
        for command in commands:
            stack.enter_context(process(*namespaces.in_network(1, *command)))
        for number in range(count):
            await kubectl.run("create", "--filename=-", stdin=json.dumps(node(number)))
        try:
            yield
        finally:
            await kubectl.run("delete", "nodes", "--selector=type=kwok", "--wait=false")
            run_inside("ip", "route", "del", "local", POD_RANGE, "dev", "lo")


def ensure_kwok() -> Path:
    """kwok from its Go module, compiled once (a minute or more) into the cache folder."""
    folder = places.cache() / "programs" / KWOK.replace("/", "_")
    if not (folder / "kwok").exists():
        print(f"Compiling {KWOK}, once")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "go.mod").write_text("module kwok\n")
        package = KWOK.partition("@")[0]
        for words in (("get", KWOK), ("build", "-o", "kwok", package)):
            command = (str(toolchain.ensure_go()), *words)
            variables = os.environ | toolchain.ENVIRONMENT
            subprocess.run(command, cwd=folder, env=variables, check=True)
    return folder / "kwok"


@contextlib.contextmanager
def process(*command: str) -> Iterator[None]:
    log = Path("/tmp") / f"{Path(command[-1]).name}.log"  # noqa: S108  (for a look after a failure)
    with log.open("w") as output:
        running = subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output)
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def run_inside(*command: str) -> None:
    subprocess.run(namespaces.in_network(1, *command), check=True)
