"""Without autoscaling the spec decides, also through `kubectl scale`, and no request notices."""

import pytest

from e2e.asks import LONG_STREAMS, SHORT_ASKS
from e2e.inference_service import InferenceService
from e2e.traffic import Traffic


@pytest.mark.parametrize("replicas", [2, 1])
async def test_kubectl_scale_under_traffic_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic, replicas: int
) -> None:
    """Up from one, then down from two; a drain must wait for the streams on its replica."""
    traffic.keep(20, LONG_STREAMS)
    traffic.arrive(1.5, SHORT_ASKS)
    await traffic.until_streaming(20)
    await service.kube.run("scale", f"infsvc/{service.name}", f"--replicas={replicas}")
    scaled = await service.until_ready()
    await traffic.until_results(40)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert scaled["status"]["routableReplicas"] == replicas
    assert len(await service.groups()) == replicas
