"""The operator dies, is upgraded, loses its API server: all goes on where it was, nothing twice."""

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from e2e.asks import LONG_STREAMS, Json
from e2e.cluster import processes
from e2e.faults import kill_programs_of, signal_programs_of
from e2e.inference_service import InferenceService, is_surging
from e2e.install import CLUSTER_UP, HELM_INSTALL, type_in
from e2e.kube import Kube
from e2e.leadership import holder, leader, until_predecessors_are_gone
from e2e.reliability import SEED, Counted
from e2e.traffic import Traffic

KILLS = int(os.environ.get("OPENINFERENCE_KILLS", "5"))  # the campaign: 100
STREAMS = 20


async def test_a_leader_killed_at_random_moments_of_upgrades_costs_nothing(
    service: InferenceService, traffic: Traffic, installation: Kube, counted: Counted
) -> None:
    """Every kill falls somewhere else into an upgrade; each converges, nothing is doubled."""
    draw = random.Random(SEED)
    counted.faults = KILLS
    traffic.keep(STREAMS, LONG_STREAMS)
    await traffic.until_streaming(STREAMS)
    async with service.numbers_of_groups() as numbers:
        for number in range(KILLS):
            await service.upgrade(f"kill {number}")
            await asyncio.sleep(draw.uniform(0, 8))  # an upgrade takes about ten seconds
            killed = await leader(installation)
            await kill_programs_of(installation, killed)
            await service.until_ready()
            # The kubelet waits ever longer before it starts what was killed often: take another.
            await _delete(installation, killed)
        report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert max(numbers) == 2, "one replica and a surge of one"
    assert len(await service.groups()) == 1


async def test_a_leader_that_is_told_to_end_hands_over_at_once_and_ends_well(
    installation: Kube,
) -> None:
    """It releases its lease, for which the next leader would otherwise wait 15 s."""
    ending = await leader(installation)
    name, restarts = ending["metadata"]["name"], _container(ending)["restartCount"]
    before = await installation.run("logs", name)
    holders: list[str] = []
    async with asyncio.timeout(120), aclosing(installation.watch("leases")) as states:
        async for leases in states:
            if not holders and not signal_programs_of(ending, signal.SIGTERM):
                pytest.skip("programs of pods cannot be stopped on this cluster")
            holders.append(holder(leases))
            if "" in holders and holders[-1]:
                break
    assert holders[0] == name

    def is_back(pods: Sequence[Json]) -> bool:
        [pod] = [each for each in pods if each["metadata"]["name"] == name]
        return bool(_container(pod)["restartCount"] > restarts)

    await installation.until("pods", is_back, 120)
    ended = _container(await installation.get("pod", name))["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
    last_words = (await installation.run("logs", name, "--previous")).removeprefix(before)
    assert "Traceback" not in last_words, last_words
    assert "Unclosed" not in last_words, last_words


async def test_an_operator_upgrade_with_another_engine_image_rolls_no_group(
    service: InferenceService, installation: Kube
) -> None:
    before = await _identities(service)
    await _helm(
        installation,
        *("--set", "engine.image.tag=another", "--set", "operator.resources.limits.memory=600Mi"),
    )
    try:
        await service.change(rollout={"maxSurge": 2})  # seen by the new operator
        await service.until_ready()
        assert await _identities(service) == before
    finally:
        await _helm(installation)


async def test_an_api_server_that_is_killed_midway_delays_an_upgrade_and_no_more(
    service: InferenceService, traffic: Traffic
) -> None:
    server = processes.running_pid("kube-apiserver")
    if server is None:
        pytest.skip("this cluster's API server is no process of this machine")
    traffic.keep(STREAMS, LONG_STREAMS)
    await traffic.until_streaming(STREAMS)
    await service.upgrade("API server killed")
    await service.until(is_surging)
    os.kill(server, signal.SIGKILL)
    await asyncio.sleep(5)
    await asyncio.to_thread(type_in, *CLUSTER_UP)
    await service.until_ready()
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert len(await service.groups()) == 1


async def _delete(system: Kube, pod: Json) -> None:
    await system.run("delete", "pod", pod["metadata"]["name"], "--wait=false", "--ignore-not-found")


def _container(pod: Json) -> Json:
    """The status of the only container of a pod."""
    status: Json = pod["status"]["containerStatuses"][0]
    return status


async def _identities(service: InferenceService) -> dict[str, str]:
    """Pods of the service by name, with the identity that a new one would not have."""
    pods = await service.kube.list("pods", service.selector)
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods if _is_engine(pod)}


def _is_engine(pod: Json) -> bool:
    return bool(pod["metadata"]["labels"]["app.kubernetes.io/component"] == "engine")


async def _helm(installation: Kube, *more: str) -> None:
    await asyncio.to_thread(type_in, *HELM_INSTALL, *more)
    await until_predecessors_are_gone(installation)
