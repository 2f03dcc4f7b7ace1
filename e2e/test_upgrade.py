"""A new revision rolls out under traffic, and not even a killed operator costs a request.

Each test states complete, refused and lost, with at least twenty streams open at the moment
that matters. The control shows that the driver sees a loss when there is one.
"""

import signal
from collections.abc import Sequence

import pytest

from e2e.asks import NO_RESUME, Json
from e2e.faults import kill_programs_of, signal_programs_of
from e2e.inference_service import MODEL, InferenceService, is_surging
from e2e.kube import Kube
from e2e.load import begin, faults
from e2e.reliability import Counted
from e2e.traffic import Traffic


async def test_an_upgrade_under_load_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    revisions = [await service.revision()]
    await begin(traffic)
    async for number in faults(traffic, counted):
        await service.upgrade(f"upgrade {number} under load")
        await service.until_ready()
        revisions.append(await service.revision())
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert len(set(revisions)) == counted.faults + 1
    assert sorted(report.revisions) == sorted(revisions), "all answered, and nobody else"


async def test_an_operator_killed_mid_upgrade_costs_nothing(
    service: InferenceService, traffic: Traffic, installation: Kube
) -> None:
    await begin(traffic)
    async with service.numbers_of_groups() as numbers:
        await service.upgrade("operator killed")
        await service.until(is_surging)
        for pod in await installation.list("pods"):
            await kill_programs_of(installation, pod)
        await service.until_ready()
        report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert max(numbers) == 2, "one replica and a surge of one"
    assert len(await service.groups()) == 1


async def test_a_replica_killed_under_streams_costs_nothing(
    service: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    """The only replica: its streams are held, and go on where they were once it is back."""
    await begin(traffic)
    async for number in faults(traffic, counted):
        if number:  # the kubelet waits before it starts a program that was killed twice
            await service.upgrade(f"killed {number} times")
            await service.until_ready()
        await kill_engines(service)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_replica_whose_engine_hangs_under_streams_costs_nothing(
    service: InferenceService, traffic: Traffic
) -> None:
    """The core computes nothing more while its HTTP server goes on; it is found and made anew."""
    [pod] = await leaders(service)
    restarts = pod["status"]["containerStatuses"][0]["restartCount"]
    await begin(traffic)
    if not signal_programs_of(pod, signal.SIGSTOP, "openinference_engine.core"):
        pytest.skip("programs of pods cannot be stopped on this cluster")
    report = await traffic.finish()
    await service.until_ready()
    [pod] = await leaders(service)
    assert pod["status"]["containerStatuses"][0]["restartCount"] > restarts
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_the_driver_sees_the_loss_where_streams_may_not_resume(
    service: InferenceService, url: str, traffic: Traffic, counted: Counted
) -> None:
    """The control run of the test above."""
    async with Traffic(url, MODEL, traffic.references, headers=NO_RESUME) as fragile:
        await begin(fragile)
        await kill_engines(service)
        report = await fragile.finish()
    counted.may_lose = True
    counted.reports.append(report)
    assert report.lost > 0, report.explain()


async def kill_engines(service: InferenceService) -> None:
    for pod in await leaders(service):
        await kill_programs_of(service.kube, pod)


async def leaders(service: InferenceService) -> Sequence[Json]:
    """The pods that answer for the replicas."""
    return await service.kube.list("pods", f"{service.selector},openinference.dev/role=leader")
