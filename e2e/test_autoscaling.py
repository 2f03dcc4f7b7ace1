"""The sample of the documentation scales with its queue, as Prometheus measures it."""

import asyncio

import pytest

from e2e.asks import LONG_STREAMS, Json
from e2e.cluster.places import PROJECT
from e2e.inference_service import InferenceService, is_ready
from e2e.kube import Kube
from e2e.traffic import Traffic

SAMPLE = PROJECT / "docs" / "examples" / "smollm2.yaml"


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    asyncio.run(kube.run("apply", f"--filename={SAMPLE}"))
    service = InferenceService(kube, "smollm2")
    asyncio.run(service.until_ready())
    return service


async def test_replicas_follow_the_queue_up_and_down_again(
    service: InferenceService, traffic: Traffic
) -> None:
    traffic.keep(12, LONG_STREAMS)
    wanted = await service.until(lambda each: desired(each) == 2)
    grown = await service.until(lambda each: is_ready(each) and routable(each) == 2)
    report = await traffic.finish()
    shrunk = await service.until(lambda each: is_ready(each) and routable(each) == 1)
    assert wanted["status"]["scaling"]["inputs"][0]["source"] == "Prometheus"
    assert grown["status"]["replicasSummary"] == "2/2"
    assert shrunk["status"]["scaling"]["inputs"][0]["source"] == "Prometheus"
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_other_figures_of_prometheus_decide_as_well(service: InferenceService) -> None:
    """The cache and the backlog, measured beside a query of one's own, which wants two replicas."""
    query = {"query": "vector(6)"}
    metrics = [
        {"type": "KVCache", "target": {"averageUtilization": 90}},
        {"type": "BacklogSeconds", "target": {"averageValue": "30"}},
        {"type": "Prometheus", "prometheus": query, "target": {"averageValue": "3"}},
    ]
    await service.change(autoscaling={"metrics": metrics})
    grown = await service.until(lambda each: desired(each) == 2 and len(inputs(each)) == 3)
    assert [(each["type"], each["source"]) for each in inputs(grown)] == [
        ("KVCache", "Prometheus"),
        ("BacklogSeconds", "Prometheus"),
        ("Prometheus", "Prometheus"),
    ]
    assert inputs(grown)[2]["proposal"] == 2


def inputs(service: Json) -> list[Json]:
    return list(service["status"]["scaling"]["inputs"])


def desired(service: Json) -> int:
    return int(service["status"]["scaling"]["desired"])


def routable(service: Json) -> int:
    return int(service["status"]["routableReplicas"])
