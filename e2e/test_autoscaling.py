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


def desired(service: Json) -> int:
    return int(service["status"]["scaling"]["desired"])


def routable(service: Json) -> int:
    return int(service["status"]["routableReplicas"])
