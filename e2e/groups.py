"""The pods of a service by group, and what groups of any layout must stand under traffic."""

import signal
import time
from collections.abc import Awaitable, Callable, Sequence

import pytest

from e2e.asks import LONG_STREAMS, NO_RESUME, Json
from e2e.inference_service import MODEL, InferenceService
from e2e.kube import condition
from e2e.load import begin, enough
from e2e.reliability import Counted
from e2e.traffic import Traffic

GROUP_LABEL = "openinference.dev/group"
RANK_PROGRAM = "openinference_engine.ranks"
HOW_A_RANK_GOES = (
    pytest.param(signal.SIGKILL, id="dies"),
    pytest.param(signal.SIGSTOP, id="hangs"),
)
UNREADY_SECONDS = 60.0
MEET_SECONDS = 120.0  # to be found, end, start and load, on two busy cores


Lose = Callable[[Sequence[Json]], Awaitable[bool]]  # to pods of a group; False: not on this cluster


async def lose_a_rank(
    service: InferenceService, url: str, traffic: Traffic, counted: Counted, lose: Lose
) -> None:
    """All containers of its group end, and are started again in place. The control shows that it
    hurts."""
    async with Traffic(url, MODEL, traffic.references, headers=NO_RESUME) as control:
        await begin(traffic)
        control.keep(6, LONG_STREAMS)
        group, before = await busiest_group(service, control)
        if not await lose(before):
            pytest.skip("programs of pods cannot be stopped on this cluster")
        counted.unready_seconds = await seconds_until_unready(service, group)
        await until_restarted(service, group, before)
        await service.until_ready_with(2)
        await end(traffic)
        counted.control = await control.finish()
    assert counted.control.lost > 0, counted.control.explain()


async def scale_down_and_up(service: InferenceService, traffic: Traffic) -> None:
    """To one of two replicas while streams run on both, and back."""
    await begin(traffic)
    await service.kube.run("scale", f"infsvc/{service.name}", "--replicas=1")
    await service.until_ready_with(1)
    await service.kube.run("scale", f"infsvc/{service.name}", "--replicas=2")
    await service.until_ready_with(2)
    await end(traffic)


async def drain_node(service: InferenceService, node: str, traffic: Traffic) -> None:
    """A node on which replicas have pods, until all have moved to another."""
    assert node in await nodes_of(service)
    await begin(traffic)
    try:
        await service.kube.run(
            *("drain", node, "--ignore-daemonsets", "--delete-emptydir-data"),
            *("--force", "--timeout=4m"),
        )
        await service.until_ready_with(2)
    finally:
        await service.kube.run("uncordon", node)
    await end(traffic)
    assert node not in await nodes_of(service)


async def end(traffic: Traffic) -> None:
    """After enough requests, of which none was lost or refused."""
    await enough(traffic)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def nodes_of(service: InferenceService) -> set[str]:
    """Where the pods of all groups are."""
    groups = (await pods_by_group(service)).values()
    return {str(pod["spec"]["nodeName"]) for pods in groups for pod in pods}


async def pods_by_group(service: InferenceService) -> dict[str, list[Json]]:
    """By the names of the groups; pod 0, which answers, comes first."""
    found: dict[str, list[Json]] = {}
    for pod in await service.kube.list("pods", f"{service.selector},{GROUP_LABEL}"):
        if "deletionTimestamp" not in pod["metadata"]:
            found.setdefault(pod["metadata"]["labels"][GROUP_LABEL], []).append(pod)
    return {
        group: sorted(found[group], key=lambda pod: str(pod["metadata"]["name"]))
        for group in sorted(found)
    }


async def pods_of(service: InferenceService, group: str) -> list[Json]:
    """Those of one group; none while it has none."""
    return (await pods_by_group(service)).get(group, [])


async def busiest_group(service: InferenceService, control: Traffic) -> tuple[str, list[Json]]:
    """The group that serves most of the control's streams, and its pods."""
    group = await control.busiest_group()
    return group, await pods_of(service, group)


async def seconds_until_unready(service: InferenceService, group: str) -> float:
    """How long it is, from now on, until pod 0 of a group takes no new request."""
    begun_at, name = time.monotonic(), f"{group}-0"

    def is_unready(pods: Sequence[Json]) -> bool:
        return all(pod["metadata"]["name"] != name or not is_ready(pod) for pod in pods)

    await service.kube.until("pods", is_unready, UNREADY_SECONDS, f"{GROUP_LABEL}={group}")
    return time.monotonic() - begun_at


async def until_restarted(service: InferenceService, group: str, before: Sequence[Json]) -> None:
    """The containers of these pods have been started again in place, and are Ready."""
    wanted = {_uid(pod): _restarts(pod) + 1 for pod in before}

    def has_met_again(pods: Sequence[Json]) -> bool:
        return all(_restarts(pod) >= wanted.get(_uid(pod), 0) and is_ready(pod) for pod in pods)

    await service.kube.until("pods", has_met_again, MEET_SECONDS, f"{GROUP_LABEL}={group}")


def is_ready(pod: Json) -> bool:
    return bool(condition(pod, "Ready").get("status") == "True")


def _uid(pod: Json) -> str:
    return str(pod["metadata"]["uid"])


def _restarts(pod: Json) -> int:
    return int(pod["status"]["containerStatuses"][0]["restartCount"])
