"""The pods of a service by group, and what becomes of a group one of whose ranks goes."""

import signal
import time
from collections.abc import Sequence

import pytest

from e2e.asks import Json
from e2e.inference_service import InferenceService
from e2e.kube import condition
from e2e.traffic import Traffic

GROUP_LABEL = "openinference.dev/group"
RANK_PROGRAM = "openinference_engine.ranks"
HOW_A_RANK_GOES = (
    pytest.param(signal.SIGKILL, id="dies"),
    pytest.param(signal.SIGSTOP, id="hangs"),
)
UNREADY_SECONDS = 60.0
MEET_SECONDS = 120.0  # to be found, end, start and load, on two busy cores


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


async def busiest_group(service: InferenceService, control: Traffic) -> tuple[str, list[Json]]:
    """The group that serves most of the control's streams, and its pods."""
    group = await control.busiest_group()
    return group, (await pods_by_group(service))[group]


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
