"""Without autoscaling the spec decides, also through `kubectl scale`, and no request notices."""

import pytest

from e2e.inference_service import InferenceService
from e2e.load import begin, enough
from e2e.traffic import Traffic


@pytest.mark.parametrize("replicas", [2, 1])
async def test_kubectl_scale_under_traffic_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic, replicas: int
) -> None:
    """Up from one, then down from two; a drain must wait for the streams on its replica."""
    await begin(traffic)
    await service.kube.run("scale", f"infsvc/{service.name}", f"--replicas={replicas}")
    scaled = await service.until_ready_with(replicas)
    await enough(traffic)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert scaled["status"]["routableReplicas"] == replicas
    assert len(await service.groups()) == replicas
