"""Replicas of three ranks in one pod, each with a third of every product, and a rank that goes.

Each test takes a minute or more, so the campaign runs them.
"""

import asyncio
import os
import signal

import pytest

from e2e.asks import LONG_STREAMS, NO_RESUME, Ask
from e2e.faults import signal_programs_of
from e2e.groups import (
    HOW_A_RANK_GOES,
    RANK_PROGRAM,
    busiest_group,
    pods_by_group,
    seconds_until_unready,
    until_restarted,
)
from e2e.inference_service import MODEL, InferenceService
from e2e.kube import Kube
from e2e.load import begin, enough
from e2e.reliability import RESULTS, Counted
from e2e.traffic import Traffic
from e2e.verdict import Reference

pytestmark = pytest.mark.skipif(RESULTS not in os.environ, reason="make campaign runs it")


@pytest.fixture(scope="module")
def references() -> dict[Ask, Reference]:
    """Answers of three ranks: they add in another order than one, which may change a token."""
    return {}


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    """Two replicas of three ranks each."""
    service = InferenceService(kube, "thirds")
    asyncio.run(service.apply(parallelism={"tensor": 3}, replicas=2))
    asyncio.run(service.until_ready_with(2))
    return service


async def test_three_ranks_in_one_pod_answer(service: InferenceService, traffic: Traffic) -> None:
    await begin(traffic)
    await enough(traffic)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert (await service.get())["status"]["ranksSummary"] == "6/6"
    assert [len(pods) for pods in (await pods_by_group(service)).values()] == [1, 1]


@pytest.mark.parametrize("number", HOW_A_RANK_GOES)
async def test_a_pod_of_three_ranks_one_of_which_goes_costs_nothing_and_starts_again(
    service: InferenceService,
    url: str,
    traffic: Traffic,
    counted: Counted,
    number: signal.Signals,
) -> None:
    """The container ends and is started again in place. The control shows that it hurts."""
    async with Traffic(url, MODEL, traffic.references, headers=NO_RESUME) as control:
        await begin(traffic)
        control.keep(6, LONG_STREAMS)
        group, before = await busiest_group(service, control)
        if not signal_programs_of(before[0], number, RANK_PROGRAM, "1"):
            pytest.skip("programs of pods cannot be stopped on this cluster")
        counted.unready_seconds = await seconds_until_unready(service, group)
        await until_restarted(service, group, before)
        await service.until_ready_with(2)
        await enough(traffic)
        report, counted.control = await traffic.finish(), await control.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert counted.control.lost > 0, counted.control.explain()
