"""Replicas of three ranks in one pod, each with a third of every product, on two nodes.

Routers stay on the first node. Each test takes a minute or more, so the campaign runs them.
"""

import asyncio
import os
import signal
from collections.abc import Sequence

import pytest

from e2e.asks import Ask, Json
from e2e.faults import signal_programs_of
from e2e.groups import (
    HOW_A_RANK_GOES,
    RANK_PROGRAM,
    drain_node,
    end,
    lose_a_rank,
    pods_by_group,
    scale_down_and_up,
)
from e2e.inference_service import InferenceService
from e2e.kube import Kube
from e2e.load import begin
from e2e.reliability import RESULTS, Counted
from e2e.traffic import Traffic
from e2e.verdict import Reference

pytestmark = pytest.mark.skipif(RESULTS not in os.environ, reason="make campaign runs it")


@pytest.fixture(scope="module")
def references() -> dict[Ask, Reference]:
    """Answers of three ranks: they add in another order than one, which may change a token."""
    return {}


@pytest.fixture(scope="module")
def service(kube: Kube, second_node: str) -> InferenceService:
    """Two replicas of three ranks each, one on each node."""
    service = InferenceService(kube, "thirds")
    asyncio.run(service.apply(parallelism={"tensor": 3}))
    asyncio.run(service.until_ready_with(1))
    asyncio.run(kube.run("uncordon", second_node))
    asyncio.run(service.change(replicas=2))
    asyncio.run(service.until_ready_with(2))
    return service


async def test_three_ranks_in_one_pod_answer(service: InferenceService, traffic: Traffic) -> None:
    await begin(traffic)
    await end(traffic)
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
    async def lose(pods: Sequence[Json]) -> bool:
        return signal_programs_of(pods[0], number, RANK_PROGRAM, "1") > 0

    await lose_a_rank(service, url, traffic, counted, lose)


async def test_an_upgrade_of_groups_of_three_ranks_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic
) -> None:
    before = set(await pods_by_group(service))
    await begin(traffic)
    await service.upgrade("thirds")
    await service.until_ready_with(2)
    await end(traffic)
    assert before.isdisjoint(await pods_by_group(service))


async def test_a_scale_of_groups_of_three_ranks_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic
) -> None:
    await scale_down_and_up(service, traffic)


async def test_a_drained_node_takes_a_group_of_three_ranks_and_costs_nothing(
    service: InferenceService, second_node: str, traffic: Traffic
) -> None:
    await drain_node(service, second_node, traffic)
