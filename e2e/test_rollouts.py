"""Bad revisions go back by themselves, canaries prove themselves first; no request notices.

One service lives through all of it. Each test states complete, refused and lost, with twenty
streams open at the moment that matters.
"""

import pytest

from e2e.asks import Json
from e2e.inference_service import WEIGHTS, InferenceService, is_surging
from e2e.kube import condition
from e2e.load import begin
from e2e.traffic import Traffic

QUESTION = "What is the capital of France, and what is it known for?"


def canary(expect: str, **fields: object) -> Json:
    golden = [{"prompt": QUESTION, "expect": expect, "maxTokens": 16}]
    return {
        "strategy": "Canary",
        "canary": {"steps": [{"weight": 50, "pause": "20s"}], "golden": golden, **fields},
    }


def marked(marker: str) -> Json:
    """A new revision of the same model."""
    return {"podTemplate": {"env": [{"name": "MARKER", "value": marker}]}}


BAD: dict[str, tuple[Json, str]] = {
    "a wrong answer to a golden prompt": (
        {"rollout": canary("Berlin"), **marked("golden")},
        "answered golden prompt",
    ),
    "a replica that is not ready in time": (
        {
            "rollout": {"strategy": "RollingUpdate", "canary": None, "progressDeadline": "10s"},
            "podTemplate": {"nodeSelector": {"no.such/label": "anywhere"}},
        },
        "was not ready within 10 s",
    ),
    "a crash loop": (
        {
            "rollout": {"progressDeadline": "10m"},
            "engine": {"image": None},
            "podTemplate": {"nodeSelector": None, "env": None},
            "model": {"uri": WEIGHTS.replace(".gguf", "-absent.gguf")},
        },
        "absent.gguf",
    ),
}


@pytest.mark.parametrize(("change", "said"), BAD.values(), ids=BAD.keys())
async def test_a_bad_upgrade_is_rolled_back_and_no_request_notices(
    service: InferenceService, traffic: Traffic, change: Json, said: str
) -> None:
    good = (await service.get())["status"]["currentRevision"]
    await begin(traffic)
    await service.change(**change)
    failed = await service.until(is_rolled_back)
    await service.until(lambda each: each["status"]["replicas"] == 1)
    report = await traffic.finish()
    assert said in condition(failed, "Progressing")["message"]
    assert condition(failed, "Available")["status"] == "True"
    assert condition(failed, "Ready")["status"] == "False"
    assert failed["status"]["currentRevision"] == good
    assert list(report.revisions) == [good], "nobody was answered by the bad revision"
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_canary_takes_its_share_and_then_everything(
    service: InferenceService, traffic: Traffic
) -> None:
    good = (await service.get())["status"]["currentRevision"]
    await begin(traffic)
    limits = [{"metric": "ErrorRate", "max": "0.2"}, {"metric": "TTFT", "maxRatio": "100"}]
    await service.change(
        model={"uri": WEIGHTS}, rollout=canary("Paris", analysis=limits), **marked("canary")
    )
    during = await service.until(is_judged)
    after = await service.until_ready()
    report = await traffic.finish()
    message = condition(during, "Progressing")["message"]
    assert "gets 50 % of the requests" in message
    assert "ErrorRate 0 of" in message
    assert set(report.revisions) == {good, after["status"]["currentRevision"]}
    assert (report.lost, report.refused) == (0, 0), report.explain()


async def test_a_spec_changed_midway_goes_on_from_what_is_there(
    service: InferenceService, traffic: Traffic
) -> None:
    await service.change(rollout={"strategy": "RollingUpdate", "canary": None})
    await begin(traffic)
    await service.change(**marked("second thoughts"))
    await service.until(is_surging)
    await service.change(**marked("third thoughts"))
    after = await service.until_ready()
    report = await traffic.finish()
    groups = await service.groups()
    revisions = {each["metadata"]["labels"]["openinference.dev/revision"] for each in groups}
    assert revisions == {after["status"]["updateRevision"]}
    assert (report.lost, report.refused) == (0, 0), report.explain()


def is_rolled_back(service: Json) -> bool:
    progressing = condition(service, "Progressing")
    is_current = progressing.get("observedGeneration") == service["metadata"]["generation"]
    return bool(is_current and progressing["reason"] == "RolledBack")


def is_judged(service: Json) -> bool:
    """The canary has a share of the requests, and enough of them to judge it by."""
    progressing = condition(service, "Progressing")
    return progressing.get("reason") == "Canary" and "ErrorRate" in progressing["message"]
