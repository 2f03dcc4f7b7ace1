"""The front door: router pods that go, streams that move before a drain ends, requests from zero.

Each test states complete, refused and lost, with twenty streams open at the moment of the fault.
"""

import asyncio
import time
from collections.abc import Mapping

import pytest

from e2e.asks import LONG_STREAMS, SHORT_ASKS, Json, long_streams
from e2e.exchange import Trouble
from e2e.faults import kill_programs_of
from e2e.inference_service import MODEL, InferenceService
from e2e.kube import Kube
from e2e.reliability import Counted
from e2e.traffic import Traffic
from e2e.verdict import Outcome

STREAMS = 20
SHORT_REQUESTS = 40
DRAIN = "2s"
LONGER_THAN_THE_DRAIN = long_streams(max_tokens=480)  # of twenty at once: 10 s and more


@pytest.fixture(scope="module")
def service(kube: Kube) -> InferenceService:
    """Two replicas, so that a stream has somewhere to move."""
    service = InferenceService(kube, "demo")
    asyncio.run(service.apply(replicas=2, rollout={"drainTimeout": DRAIN}))
    asyncio.run(service.until_ready())
    return service


async def start(traffic: Traffic) -> None:
    traffic.keep(STREAMS, LONG_STREAMS)
    traffic.arrive(1.5, SHORT_ASKS)
    await traffic.until_streaming(STREAMS)


async def router_pods(kube: Kube) -> list[Json]:
    return list(await kube.list("pods", "app.kubernetes.io/component=router"))


async def test_a_router_pod_that_is_drained_loses_and_refuses_nothing(
    service: InferenceService, traffic: Traffic
) -> None:
    """Deleted with its grace, which is what `kubectl drain` and an upgrade do."""
    await start(traffic)
    drained = (await router_pods(service.kube))[0]["metadata"]["name"]
    await service.kube.run("delete", "pod", drained, "--wait=true")
    await traffic.until_results(SHORT_REQUESTS + STREAMS)
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_router_pod_that_is_killed_breaks_only_what_was_open(
    service: InferenceService, traffic: Traffic, counted: Counted
) -> None:
    counted.may_lose = True
    await start(traffic)
    await kill_programs_of(service.kube, (await router_pods(service.kube))[0])
    killed_at = time.monotonic()
    await traffic.until_results(SHORT_REQUESTS + STREAMS)
    report = await traffic.finish()
    lost = [each for each in report.results if each.verdict.outcome is Outcome.LOST]
    assert all(each.seen.sent_at < killed_at for each in lost), report.explain()
    assert 0 < len(lost) < STREAMS, "one of two pods: some of the streams were its own"
    refusals = report.causes.keys() - {each.verdict.cause for each in lost}
    assert refusals <= {Trouble.UNREACHABLE}, report.explain()


async def drain_a_replica(service: InferenceService, traffic: Traffic) -> None:
    """Scale from two to one while twenty streams run that outlast the drain."""
    await traffic.learn(LONGER_THAN_THE_DRAIN)
    traffic.keep(STREAMS, LONGER_THAN_THE_DRAIN)
    await traffic.until_streaming(STREAMS)
    await service.kube.run("scale", f"infsvc/{service.name}", "--replicas=1")
    await asyncio.sleep(8)  # past both drains, the operator's and the engine's own: cut is cut
    await traffic.finish()
    await service.kube.run("scale", f"infsvc/{service.name}", "--replicas=2")
    await service.until_ready()


@pytest.mark.parametrize(
    ("headers", "may_lose"),
    [({}, False), ({"x-openinference-resume": "off"}, True)],
    ids=["resumed", "control"],
)
async def test_streams_that_outlast_a_drain_move_on(
    service: InferenceService,
    url: str,
    headers: Mapping[str, str],
    may_lose: bool,
    counted: Counted,
) -> None:
    async with Traffic(url, MODEL, headers=headers) as traffic:
        await drain_a_replica(service, traffic)
    counted.may_lose = may_lose
    counted.reports.append(traffic.report)
    assert traffic.report.refused == 0, traffic.report.explain()
    assert (traffic.report.lost > 0) == may_lose, traffic.report.explain()


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
