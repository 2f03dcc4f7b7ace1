"""How the operator grows: 100 to 1,000 InferenceServices to Ready, at rest, and while they change.

    python -m benchmarks.operator [--sizes 100,300,1000] [--out docs/operator-scale.svg]

Everything is real but the engines: API server, controllers, scheduler, the operator as the chart
installs it, one router pod. Nodes and pods are kwok's (https://kwok.sigs.k8s.io), which says that
they are Ready and runs nothing; their addresses lead to `operator_stub`, so that the router admits
them. Needs the embedded cluster (root on Linux), because stub and kwok live in its network.

Reconcile times and memory are the operator's own metrics; the percentile is read from the
histogram as Prometheus would. The operator's CPU time is told apart, for here it shares two cores
with a whole control plane.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.fake_nodes import FAKE, PODS_PER_NODE, fake_nodes
from benchmarks.operator_metrics import leader_metrics, percentile
from e2e.asks import Json
from e2e.cluster.kubectl import environment
from e2e.cluster.places import PROJECT
from e2e.inference_service import remove_namespace
from e2e.install import CLUSTER_UP, HELM_INSTALL, SYSTEM_NAMESPACE, type_in
from e2e.kube import Kube

REST_SECONDS = 30.0
NUM_CHANGED = 100
NUM_HANDS = 5  # as many kubectl change services at a time
AUTOSCALED_EACH = 10  # so that there is something to do at rest

console = Console()


@dataclass(frozen=True, slots=True)
class Result:
    """What one number of services cost. Reconcile times are 95th percentiles, in milliseconds.

    `cpu_seconds`, `calls_each`: of the operator until all are Ready, and how often it called the
    API server for each service.
    """

    services: int
    ready_seconds: float
    p95_starting_ms: float
    p95_rest_ms: float
    p95_change_ms: float
    change_seconds: float
    memory_mb: float
    cpu_seconds: float
    calls_each: float


async def measure(kube: Kube, system: Kube, size: int) -> Result:
    """Create so many services, wait, let them rest, change a hundred of them."""
    before = await leader_metrics(system)
    ready_seconds = await create(kube, size)
    started = await leader_metrics(system)
    await asyncio.sleep(REST_SECONDS)
    rested = await leader_metrics(system)
    change_seconds = await change(kube, min(size, NUM_CHANGED), size)
    changed = await leader_metrics(system)
    return Result(
        services=size,
        ready_seconds=ready_seconds,
        p95_starting_ms=1000 * percentile(before, started, 0.95),
        p95_rest_ms=1000 * percentile(started, rested, 0.95),
        p95_change_ms=1000 * percentile(rested, changed, 0.95),
        change_seconds=change_seconds,
        memory_mb=changed.memory_bytes / 1e6,
        cpu_seconds=started.cpu_seconds - before.cpu_seconds,
        calls_each=(started.api_calls - before.api_calls) / size,
    )


async def create(kube: Kube, size: int) -> float:
    """Apply all services at once; the seconds until the last is Ready."""
    objects = [service(number) for number in range(size)]
    started_at = time.monotonic()
    creating = asyncio.create_task(create_all(kube, objects))
    await until_settled(kube, size, f"{size} services to Ready")
    await creating
    return time.monotonic() - started_at


async def until_settled(kube: Kube, count: int, title: str) -> None:
    """Return when so many services are Ready, and say so about their present spec."""
    ready: set[str] = set()
    with Progress(console=console) as progress:
        task = progress.add_task(title, total=count)
        async with contextlib.aclosing(states(kube)) as changes:
            async for name, is_ready in changes:
                (ready.add if is_ready else ready.discard)(name)
                progress.update(task, completed=len(ready))
                if len(ready) == count:
                    return


async def states(kube: Kube) -> AsyncGenerator[tuple[str, bool]]:
    """Each service by name and whether it is settled, now and whenever it changes.

    kubectl reduces the objects: to parse a thousand of them again and again here would take a
    core away from what is measured.
    """
    columns = ",".join(
        (
            "NAME:.metadata.name",
            'READY:.status.conditions[?(@.type=="Ready")].status',
            "WANTED:.metadata.generation",
            "SEEN:.status.observedGeneration",
        )
    )
    command = ("kubectl", f"--namespace={kube.namespace}", "get", "infsvc", "--watch")
    while True:  # before the first service exists, and whenever the API server ends the watch
        process = await asyncio.create_subprocess_exec(
            *(*command, "--no-headers", f"--output=custom-columns={columns}"),
            env=os.environ | environment(),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                name, ready, wanted, seen = line.decode().split()
                yield name, ready == "True" and wanted == seen
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def create_all(kube: Kube, objects: Sequence[Json]) -> None:
    """One kubectl for all of them: a thousand processes would be what is measured."""
    document = {"apiVersion": "v1", "kind": "List", "items": objects}
    await kube.run("create", "--filename=-", stdin=json.dumps(document))


async def change(kube: Kube, count: int, total: int) -> float:
    """Change the queue of some services, which reaches the routers; the seconds until all agree."""
    names = [name_of(number) for number in range(count)]
    started_at = time.monotonic()
    patch = json.dumps({"spec": {"router": {"queue": {"maxRequests": 7}}}})
    shares = [names[hand::NUM_HANDS] for hand in range(NUM_HANDS)]
    words = ("patch", "infsvc", "--type=merge", f"--patch={patch}")
    await asyncio.gather(*(kube.run(*words, *share) for share in shares if share))
    await until_settled(kube, total, f"{count} services that changed")
    return time.monotonic() - started_at


def name_of(number: int) -> str:
    return f"s{number:04d}"


def service(number: int) -> Json:
    """A service of one replica that only fake nodes take; some look at their queue all the time."""
    autoscaling = {
        "minReplicas": 1,
        "maxReplicas": 2,
        "interval": "5s",
        "metrics": [{"type": "Queue", "target": {"averageValue": "4"}}],
    }
    return {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name_of(number)},
        "spec": {
            "model": {"uri": "package://stub/model.gguf"},
            **({} if number % AUTOSCALED_EACH else {"autoscaling": autoscaling}),
            "podTemplate": {
                "nodeSelector": FAKE,
                "tolerations": [{"key": "kwok", "operator": "Exists"}],
            },
        },
    }


@contextlib.asynccontextmanager
async def without_prometheus() -> AsyncIterator[None]:
    """The local cluster's Prometheus would ask a thousand pods that are none, every two seconds."""
    monitoring = Kube("monitoring")
    await monitoring.run("scale", "deployment/prometheus", "--replicas=0")
    try:
        yield
    finally:
        await monitoring.run("scale", "deployment/prometheus", "--replicas=1")


@contextlib.asynccontextmanager
async def own_namespace(kube: Kube) -> AsyncIterator[None]:
    """A namespace that is new, and gone afterwards whatever happened."""
    await remove_namespace(kube)
    await kube.create_namespace()
    try:
        yield
    finally:
        await remove_namespace(kube)


def plot(results: Sequence[Result], path: Path) -> None:
    """Draw how each figure grows with the number of services."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    sizes = [result.services for result in results]
    figures: dict[str, dict[str, Callable[[Result], float]]] = {
        "seconds until all are Ready": {"ready": lambda r: r.ready_seconds},
        "reconciliation, p95 in ms": {
            "starting": lambda r: r.p95_starting_ms,
            "at rest": lambda r: r.p95_rest_ms,
            "100 change": lambda r: r.p95_change_ms,
        },
        "memory of the leader in MB": {"resident": lambda r: r.memory_mb},
    }
    drawing, axes = pyplot.subplots(1, len(figures), figsize=(12, 3.5), layout="constrained")
    for axis, (title, lines) in zip(axes, figures.items(), strict=True):
        for name, value in lines.items():
            axis.plot(sizes, [value(result) for result in results], marker="o", label=name)
        axis.set(title=title, xlabel="InferenceServices", ylim=(0, None))
        axis.legend()
    drawing.savefig(path)


def show(results: Sequence[Result]) -> None:
    table = Table(*(name.replace("_", " ") for name in asdict(results[0])))
    for result in results:
        table.add_row(*(f"{value:.4g}" for value in asdict(result).values()))
    console.print(table)


async def run(sizes: Sequence[int], out: Path) -> None:
    end_on_sigterm()
    system = Kube(SYSTEM_NAMESPACE)
    results: list[Result] = []
    async with without_prometheus(), fake_nodes(1 + max(sizes) // PODS_PER_NODE):
        for size in sizes:
            kube = Kube(f"scale-{size}")  # a name that was deleted lately makes the API server slow
            async with own_namespace(kube):
                results.append(await measure(kube, system, size))
                show(results)  # to delete a thousand takes minutes
                plot(results, out)


def end_on_sigterm() -> None:
    """Clean up on SIGTERM as on Ctrl-C: a cluster full of services that are none is of no use."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,300,1000")
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "operator-scale.svg")
    arguments = parser.parse_args()
    rollout = ("kubectl", "rollout", "--namespace", SYSTEM_NAMESPACE)
    for command in (
        CLUSTER_UP,
        (*HELM_INSTALL, "--set", "router.replicas=1", "--set", "prometheus.url="),
        (*rollout, "restart", "deployment"),  # the tag of the image stays when the code changes
        (*rollout, "status", "deployment", "--timeout=2m"),
    ):
        type_in(*command)
    asyncio.run(run([int(size) for size in arguments.sizes.split(",")], arguments.out))


if __name__ == "__main__":
    main()
