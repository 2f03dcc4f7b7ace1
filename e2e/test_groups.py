"""Replicas of several ranks: one group over pods on two nodes, and what happens when a rank goes.

Routers stay on the first node, so that what is lost or not is about replicas. Each test takes a
minute or more, so the campaign runs them.
"""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence

import pytest

from e2e.asks import Json
from e2e.fake_gpus import GPU, give_gpus
from e2e.faults import kill_programs_of, signal_programs_of
from e2e.groups import (
    GROUP_LABEL,
    HOW_A_RANK_GOES,
    RANK_PROGRAM,
    drain_node,
    end,
    lose_a_rank,
    pods_by_group,
    pods_of,
    scale_down_and_up,
)
from e2e.inference_service import InferenceService
from e2e.kube import Kube, condition
from e2e.load import begin
from e2e.reliability import RESULTS, Counted
from e2e.traffic import Traffic

MADE_ANEW_SECONDS = 600.0  # five restarts, between which the kubelet waits 10, 20, 40 and 80 s
HOSTNAME = "kubernetes.io/hostname"
APART = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "podAffinityTerm": {
                    "topologyKey": HOSTNAME,
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "engine"}},
                    "matchLabelKeys": [GROUP_LABEL],
                },
            }
        ]
    }
}
TWO_PODS = {"parallelism": {"pipeline": 2}, "podTemplate": {"affinity": APART}}

pytestmark = pytest.mark.skipif(RESULTS not in os.environ, reason="make campaign runs it")


@pytest.fixture(scope="module")
def service(kube: Kube, second_node: str) -> InferenceService:
    """One replica of one rank, beside the routers on the first node."""
    service = InferenceService(kube, "ranks")
    asyncio.run(service.apply())
    asyncio.run(service.until_ready())
    asyncio.run(kube.run("uncordon", second_node))
    return service


@pytest.fixture(scope="module")
def groups(service: InferenceService) -> InferenceService:
    """Two replicas, each of two pods on two nodes."""
    asyncio.run(service.change(**TWO_PODS, replicas=2))
    asyncio.run(service.until_ready_with(2))
    return service


async def test_an_upgrade_from_one_rank_to_two_pods_answers_the_same(
    service: InferenceService, traffic: Traffic
) -> None:
    """The stages of a pipeline change no bit, so that streams go on from one to the other."""
    await begin(traffic)
    await service.change(**TWO_PODS, replicas=2)
    ready = await service.until_ready_with(2)
    await end(traffic)
    assert ready["status"]["ranksSummary"] == "4/4"
    for pods in (await pods_by_group(service)).values():
        assert len({pod["spec"]["nodeName"] for pod in pods}) == len(pods) == 2


@pytest.mark.parametrize("number", HOW_A_RANK_GOES)
async def test_a_group_whose_worker_goes_costs_nothing_and_meets_again(
    groups: InferenceService,
    url: str,
    traffic: Traffic,
    counted: Counted,
    number: signal.Signals,
) -> None:
    async def lose(pods: Sequence[Json]) -> bool:
        if number != signal.SIGKILL:
            return signal_programs_of(pods[1], number, RANK_PROGRAM) > 0
        await kill_programs_of(groups.kube, pods[1])
        return True

    await lose_a_rank(groups, url, traffic, counted, lose)


async def test_a_scale_of_groups_of_two_pods_loses_and_refuses_nothing(
    groups: InferenceService, traffic: Traffic
) -> None:
    """A whole group drains, then both its pods go."""
    await scale_down_and_up(groups, traffic)
    assert [len(pods) for pods in (await pods_by_group(groups)).values()] == [2, 2]


async def test_a_drained_node_takes_its_groups_one_by_one_and_costs_nothing(
    groups: InferenceService, second_node: str, traffic: Traffic
) -> None:
    """Each has a pod there: told to end, it lets its whole group drain first."""
    await drain_node(groups, second_node, traffic)


async def test_a_group_whose_worker_dies_again_and_again_is_made_anew_as_a_whole(
    groups: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    """The kubelet restarts its containers in place, until it backs off: then both pods are new."""
    group, before = next(iter((await pods_by_group(groups)).items()))
    old = {pod["metadata"]["uid"] for pod in before}
    await begin(traffic)
    counted.faults = 0
    async with asyncio.timeout(MADE_ANEW_SECONDS):
        while old & {pod["metadata"]["uid"] for pod in await pods_of(groups, group)}:
            counted.faults += signal_programs_of(before[1], signal.SIGKILL, RANK_PROGRAM)
            if not counted.faults:
                pytest.skip("programs of pods cannot be killed on this cluster")
            await asyncio.sleep(1)
    await groups.until_ready_with(2)
    await end(traffic)
    assert len(await pods_of(groups, group)) == 2


@pytest.fixture
def one_gpu_each(kube: Kube, second_node: str) -> Iterator[None]:
    """Two nodes that say they have a GPU; the second takes only who tolerates its cordon."""
    nodes = ("node/node-1", f"node/{second_node}")
    asyncio.run(kube.run("cordon", second_node))
    for node in nodes:
        asyncio.run(give_gpus(kube, node, "1"))
    yield
    for node in nodes:
        asyncio.run(give_gpus(kube, node, None))


async def test_of_two_groups_that_hold_what_the_other_lacks_one_gives_up(
    kube: Kube, second_node: str, one_gpu_each: None
) -> None:
    """Two GPUs, two services whose replica needs both: the older gets them, then the younger."""
    older, younger = InferenceService(kube, "older"), InferenceService(kube, "younger")
    needs = {
        "parallelism": {"pipeline": 2},
        "resources": {"limits": {GPU: "1"}},
        "engine": {"image": "openinference/absent:dev"},  # who has a node has proved enough
    }
    await older.apply(**needs)
    await kube.until("pods", lambda pods: placed(pods) == 1, 60, older.selector)
    cordon = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}
    await younger.apply(**needs, podTemplate={"tolerations": [cordon]})
    await younger.until(has_given_up)
    await kube.run("uncordon", second_node)
    await kube.until("pods", lambda pods: placed(pods) == 2, 60, older.selector)
    await kube.run("delete", "infsvc", older.name)
    await kube.until("pods", lambda pods: placed(pods) == 2, 120, younger.selector)
    await kube.run("delete", "infsvc", younger.name)


def placed(pods: Sequence[Json]) -> int:
    return sum("nodeName" in pod["spec"] for pod in pods)


def has_given_up(service: Json) -> bool:
    return condition(service, "Scheduled").get("reason") == "GroupGivenUp"
