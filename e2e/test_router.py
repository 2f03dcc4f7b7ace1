"""The front door: replicas and router pods that go, streams that move before a drain ends.

Each test states complete, refused and lost, with twenty streams open at the moment of the fault.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import pytest

from e2e.asks import NO_RESUME, SHORT_ASKS, Ask, Json, long_streams
from e2e.exchange import Transcript, Trouble
from e2e.faults import kill_programs_of
from e2e.inference_service import MODEL, InferenceService
from e2e.kube import Kube, is_true
from e2e.load import SHORT_CLIENTS, STREAMS, begin, faults
from e2e.reliability import Counted
from e2e.traffic import Traffic
from e2e.verdict import Outcome, Reference

DRAIN = "2s"
LONGER_THAN_THE_DRAIN = long_streams(max_tokens=600, prompts=1)  # of twenty at once: 10 s and more


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    """Two replicas, so that a stream has somewhere to move."""
    service = InferenceService(kube, "demo")
    asyncio.run(service.apply(replicas=2, rollout={"drainTimeout": DRAIN}))
    asyncio.run(service.until_ready())
    return service


async def test_a_router_pod_that_is_drained_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    """Deleted with its grace, which is what `kubectl drain` and an upgrade do."""
    await begin(traffic)
    async for _ in faults(traffic, counted):
        drained = (await both_routers(service.kube))[0]
        await service.kube.run("delete", "pod", drained["metadata"]["name"])
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_router_pod_that_is_killed_breaks_only_what_was_open(
    service: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    counted.may_lose = True
    kills: dict[str, tuple[float, float]] = {}  # by pod: from when until when
    await begin(traffic)
    async for _ in faults(traffic, counted):
        # The kubelet waits before it starts a program that was killed twice: take other pods.
        if kills:
            await service.kube.run("delete", "pod", *kills, "--ignore-not-found")
        killed = (await both_routers(service.kube))[0]
        begun_at = time.monotonic()
        await kill_programs_of(service.kube, killed)
        kills[killed["metadata"]["name"]] = begun_at, time.monotonic()
    report = await traffic.finish()
    await both_routers(service.kube)
    lost = [each for each in report.results if each.verdict.outcome is Outcome.LOST]
    assert all(was_open(each.seen, kills.values()) for each in lost), report.explain()
    most = len(kills) * (STREAMS + SHORT_CLIENTS)
    assert 0 < len(lost) < most, "one of two pods: some of the requests were its own"
    refusals = report.causes.keys() - {each.verdict.cause for each in lost}
    assert refusals <= {Trouble.UNREACHABLE}, report.explain()


async def test_a_killed_replica_of_two_costs_nothing(
    service: InferenceService, url: str, traffic: Traffic, counted: Counted
) -> None:
    """Its streams go on at the other one. Some that may not show that the kill does hurt."""
    async with Traffic(url, MODEL, traffic.references, headers=NO_RESUME) as control:
        await begin(traffic)
        control.keep(6, long_streams(max_tokens=48))
        async for number in faults(traffic, counted):
            if number:
                await service.upgrade(f"killed {number} times")
                await service.until_ready()
            await kill_a_replica(service, control)
        report, counted.control = await traffic.finish(), await control.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert control.report.lost > 0, control.report.explain()


async def kill_a_replica(service: InferenceService, control: Traffic) -> None:
    """The one that serves most of the control's streams."""
    pods = await service.kube.list("pods", f"{service.selector},openinference.dev/role=leader")
    await control.until_streaming(1)
    [(busiest, _)] = control.groups_streaming.most_common(1)
    for pod in pods:
        if pod["metadata"]["labels"]["openinference.dev/group"] == busiest:
            await kill_programs_of(service.kube, pod)


@pytest.mark.parametrize(
    ("headers", "may_lose"), [({}, False), (NO_RESUME, True)], ids=["resumed", "control"]
)
async def test_streams_that_outlast_a_drain_move_on(
    service: InferenceService,
    url: str,
    references: dict[Ask, Reference],
    headers: Mapping[str, str],
    may_lose: bool,
    counted: Counted,
) -> None:
    """Scale from two to one while twenty streams run that would be cut."""
    counted.may_lose = may_lose
    await service.change(replicas=2)
    await service.until_ready()
    async with Traffic(url, MODEL, references, headers=headers) as traffic:
        await traffic.learn(LONGER_THAN_THE_DRAIN)
        references.update(traffic.references)
        traffic.keep(STREAMS, LONGER_THAN_THE_DRAIN)
        await traffic.until_streaming(STREAMS)
        traffic.stop()
        await service.kube.run("scale", f"infsvc/{service.name}", "--replicas=1")
        report = await traffic.finish()
    counted.reports.append(report)
    assert report.refused == 0, report.explain()
    assert (report.lost > 0) == may_lose, report.explain()


async def test_fifty_requests_wait_for_the_first_replica(
    service: InferenceService, traffic: Traffic
) -> None:
    """Runs last in this file: the service scales to zero and back."""
    to_zero = {
        "minReplicas": 0,
        "maxReplicas": 1,
        "scaleToZero": {"idleAfter": "2s"},
        "metrics": [{"type": "Queue", "target": {"averageValue": "4"}}],
    }
    await service.change(autoscaling=to_zero)
    await service.until(lambda each: each["status"].get("replicas") == 0)
    asks = [SHORT_ASKS[number % len(SHORT_ASKS)] for number in range(50)]
    results = await asyncio.gather(*(traffic.send(ask) for ask in asks))
    assert [each.verdict.outcome for each in results] == [Outcome.COMPLETE] * 50


async def both_routers(kube: Kube) -> Sequence[Json]:
    """Waits until two router pods are ready and none is on its way out."""
    return await kube.until(
        "pods",
        lambda pods: len(pods) == 2 and all(map(is_ready, pods)),
        timeout_seconds=120,
        selector="app.kubernetes.io/component=router",
    )


def is_ready(pod: Json) -> bool:
    return is_true(pod, "Ready") and "deletionTimestamp" not in pod["metadata"]


def was_open(seen: Transcript, spells: Iterable[tuple[float, float]]) -> bool:
    """At some moment of one of these."""
    ended_at = seen.ended_at or time.monotonic()
    return any(seen.sent_at <= last and first <= ended_at for first, last in spells)
