"""Lost metrics are never zero: the scaler goes on from the routers, or holds, and says which."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from e2e.asks import LONG_STREAMS, Json
from e2e.faults import signal_programs_of
from e2e.inference_service import InferenceService
from e2e.kube import Kube, condition
from e2e.traffic import Traffic

MONITORING = Kube("monitoring")


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    """Few seats, so that a dozen streams make a queue."""
    service = InferenceService(kube, "scaled")
    autoscaling = {
        "minReplicas": 1,
        "maxReplicas": 2,
        "interval": "2s",
        "metrics": [{"type": "Queue", "target": {"averageValue": "2"}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
    }
    engine = {"maxModelLen": 2048, "maxSequences": 4}
    asyncio.run(service.apply(autoscaling=autoscaling, engine=engine))
    asyncio.run(service.until_ready())
    return service


@pytest.fixture
async def without_prometheus() -> AsyncIterator[None]:
    """Prometheus stopped, and back after the test."""
    await set_prometheus(0)
    yield
    await set_prometheus(1)


async def test_prometheus_stopped_under_load_is_replaced_by_the_routers(
    service: InferenceService, traffic: Traffic
) -> None:
    await set_prometheus(0)
    try:
        traffic.keep(12, LONG_STREAMS)
        fallen_back = await service.until(lambda each: active(each) == "FallbackDemand")
        grown = await service.until(lambda each: desired(each) == 2)
        await service.until(lambda each: each["status"]["routableReplicas"] == 2)
    finally:
        await set_prometheus(1)
    back = await service.until(lambda each: active(each) == "ValidMetricFound")
    report = await traffic.finish()
    assert condition(fallen_back, "ScalingActive")["status"] == "True"
    assert grown["status"]["scaling"]["inputs"][0]["source"] == "Routers"
    assert desired(back) == 2
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_with_routers_silent_as_well_the_number_holds(
    service: InferenceService, traffic: Traffic, without_prometheus: None
) -> None:
    traffic.keep(8, LONG_STREAMS)
    await traffic.until_streaming(4)
    routers = await service.kube.list("pods", "app.kubernetes.io/component=router")
    if not all(signal_programs_of(pod, signal.SIGSTOP) for pod in routers):
        pytest.skip("programs of pods cannot be stopped on this cluster")
    try:
        lost = await service.until(lambda each: active(each) == "MetricsUnavailable", 25)
    finally:
        for pod in routers:
            signal_programs_of(pod, signal.SIGCONT)
    await service.until(lambda each: active(each) == "FallbackDemand")
    report = await traffic.finish()
    assert condition(lost, "ScalingActive")["status"] == "False"
    assert desired(lost) == 2
    assert len(await service.groups()) == 2
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def set_prometheus(replicas: int) -> None:
    await MONITORING.run("scale", "deployment/prometheus", f"--replicas={replicas}")
    await MONITORING.until(
        "deployments",
        lambda all_: all(each["status"].get("readyReplicas", 0) == replicas for each in all_),
        timeout_seconds=120,
    )


def desired(service: Json) -> int:
    return int(service["status"]["scaling"]["desired"])


def active(service: Json) -> str:
    return str(condition(service, "ScalingActive").get("reason", ""))
