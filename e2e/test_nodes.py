"""Nodes go away: drained in peace, or killed with all that runs on them.

The second node is made when the first test of this file needs it, and stays. Routers stay on the
first node, so that what is lost or not is about replicas; a killed router is another test.
"""

import asyncio
import sys

import pytest

from e2e.asks import LONG_STREAMS, NO_RESUME, Json
from e2e.cluster import cgroups, links, namespaces
from e2e.inference_service import MODEL, InferenceService
from e2e.install import type_in
from e2e.kube import Kube
from e2e.load import begin, enough
from e2e.reliability import Counted
from e2e.traffic import Traffic

NODE_LOSS_SECONDS = 180.0  # 40 s until Kubernetes notices, 30 s of toleration, a start on two cores


@pytest.fixture(scope="module")
def service(kube: Kube, second_node: str) -> InferenceService:
    """One replica and the routers on the first node, then a replica on the second."""
    service = InferenceService(kube, "spread")
    asyncio.run(service.apply())
    asyncio.run(service.until_ready())
    asyncio.run(kube.run("cordon", "node-1"))
    asyncio.run(kube.run("uncordon", second_node))
    asyncio.run(service.change(replicas=2))
    asyncio.run(service.until_ready_with(2))
    asyncio.run(kube.run("uncordon", "node-1"))
    return service


async def test_a_drained_node_costs_nothing(
    service: InferenceService, second_node: str, traffic: Traffic
) -> None:
    [group] = await groups_on(second_node, service)
    await begin(traffic)
    await service.kube.run(
        *("drain", second_node, "--ignore-daemonsets", "--delete-emptydir-data"),
        *("--force", "--timeout=2m"),
    )
    await service.until_ready_with(2)
    await enough(traffic)
    report = await traffic.finish()
    assert await groups_on(second_node, service) == []
    assert report.groups[group] > 0, "the drained replica did answer before"
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_node_that_dies_costs_nothing_and_its_replica_is_replaced(
    service: InferenceService,
    second_node: str,
    url: str,
    traffic: Traffic,
    counted: Counted,
) -> None:
    """It falls silent first: no connection to it is closed, and streams must not wait for that.

    Some streams that may not resume are the control.
    """
    if not namespaces.exist(2):
        pytest.skip("this cluster's nodes are no processes of this machine")
    await service.kube.run("uncordon", second_node)
    await service.kube.run("cordon", "node-1")
    await service.change(replicas=1)
    await service.until_ready_with(1)
    await service.change(replicas=2)
    await service.until_ready_with(2)
    await service.kube.run("uncordon", "node-1")
    [group] = await groups_on(second_node, service)
    async with Traffic(url, MODEL, traffic.references, headers=NO_RESUME) as control:
        await begin(traffic)
        control.keep(6, LONG_STREAMS)
        await control.until_streaming_from(group)
        links.unplug(2)
        cgroups.kill(cgroups.node_root(2).lstrip("/"))
        control.stop()
        try:
            replaced = await service.until(is_ready_but_for_the_lost, NODE_LOSS_SECONDS)
            await enough(traffic)
            report = await traffic.finish()
        finally:
            await asyncio.to_thread(type_in, sys.executable, "-m", "e2e.cluster", "up", "--nodes=2")
    counted.control = control.report
    assert replaced["status"]["routableReplicas"] == 2
    assert group not in {each["metadata"]["name"] for each in await live_groups(service)}
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert control.report.lost > 0, control.report.explain()


async def groups_on(node: str, service: InferenceService) -> list[str]:
    """Groups whose pod runs on a node."""
    pods = await service.kube.list("pods", f"{service.selector},openinference.dev/role=leader")
    return [
        pod["metadata"]["labels"]["openinference.dev/group"]
        for pod in pods
        if pod["spec"].get("nodeName") == node
    ]


async def live_groups(service: InferenceService) -> list[Json]:
    return [each for each in await service.groups() if "deletionTimestamp" not in each["metadata"]]


def is_ready_but_for_the_lost(service: Json) -> bool:
    """Two replicas answer although a third is on the node that is gone."""
    status = service["status"]
    return bool(status["routableReplicas"] == 2 and status["replicas"] > 2)
