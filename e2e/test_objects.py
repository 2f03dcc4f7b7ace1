"""What is made beside pods, and the documentation's samples, as a real API server takes them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from e2e.asks import Json
from e2e.cluster.places import PROJECT
from e2e.inference_service import InferenceService
from e2e.kube import Kube, KubeError

OPERATOR = "openinference-operator"
EXAMPLES = sorted((PROJECT / "docs" / "examples").glob("*.yaml"))


@pytest.fixture
async def suspended(kube: Kube, prometheus_operator: None) -> AsyncIterator[InferenceService]:
    """A service that gets all its objects but runs nothing."""
    service = InferenceService(kube, "quiet")
    await service.apply(suspend=True)
    yield service
    await kube.run("delete", "infsvc", service.name)


async def test_prometheus_operator_is_told_of_engines_routers_and_alerts(
    suspended: InferenceService,
) -> None:
    monitors = await _appear(suspended.kube, "servicemonitors", 2)
    [rule] = await _appear(suspended.kube, "prometheusrules", 1)
    assert [each["metadata"]["name"] for each in monitors] == [
        "openinference-engines",
        "openinference-router",
    ]
    assert len(rule["spec"]["groups"][0]["rules"]) == 4


async def test_engines_and_routers_have_a_network_policy(suspended: InferenceService) -> None:
    policies = await _appear(suspended.kube, "networkpolicies", 2)
    assert {each["metadata"]["name"]: len(each["spec"]["ingress"]) for each in policies} == {
        "openinference-engines": 1,
        "openinference-router": 2,
    }


async def test_monitors_that_may_not_be_listed_are_left_until_they_may(
    kube: Kube, installation: Kube, prometheus_operator: None
) -> None:
    """The kinds exist, but somebody took the permission away, and gives it back."""
    await kube.until("servicemonitors", lambda found: not found, 120)  # those of other tests go
    rules = (await installation.get("clusterrole", OPERATOR))["rules"]
    fewer = [rule for rule in rules if "monitoring.coreos.com" not in rule["apiGroups"]]
    try:
        await installation.patch("clusterrole", OPERATOR, {"rules": fewer})
        await InferenceService(kube, "unmonitored").apply(suspend=True)
        await _until_said(installation, "left unwritten until the operator may list it")
        assert await kube.list("servicemonitors") == []
    finally:
        await installation.patch("clusterrole", OPERATOR, {"rules": rules})
    await InferenceService(kube, "another").apply(suspend=True)  # else it looks after a minute
    await _appear(kube, "servicemonitors", 2)
    await _appear(kube, "prometheusrules", 1)
    await kube.run("delete", "infsvc", "unmonitored", "another")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
async def test_every_sample_is_accepted(kube: Kube, path: Path) -> None:
    told = await kube.run("apply", "--dry-run=server", f"--filename={path}")
    assert "(server dry run)" in told


@pytest.mark.parametrize(
    ("model", "remedy"),
    [
        ({"uri": "https://host/folder"}, "https://host/path.gguf"),
        ({"uri": "hf://alone"}, "hf://organisation/repository"),
        ({"uri": "s3://b/m.gguf", "revision": "v1"}, "model.revision is for hf:// only; remove it"),
        ({"uri": "hf://a/b", "sha256": "0" * 64}, "model.sha256 is for one .gguf file"),
        ({"uri": "file:///m.gguf", "cache": {"pvc": "m"}}, "are for models that are fetched"),
    ],
)
async def test_a_bad_model_is_rejected_with_the_remedy(
    kube: Kube, model: Json, remedy: str
) -> None:
    with pytest.raises(KubeError) as rejection:
        await InferenceService(kube, "bad").apply(model=model)
    assert remedy in str(rejection.value)


async def test_activations_in_codes_need_a_gpu(kube: Kube) -> None:
    with pytest.raises(KubeError, match=r"set resources\.limits nvidia\.com/gpu, or remove it"):
        await InferenceService(kube, "bad").apply(engine={"activations": "fp8"})


async def test_weights_of_another_type_than_bfloat16_need_no_gpu(kube: Kube) -> None:
    with pytest.raises(KubeError, match=r"are for CPUs, because GPUs compute in bfloat16; remove"):
        await InferenceService(kube, "bad").apply(
            engine={"dtype": "float32"}, resources={"limits": {"nvidia.com/gpu": 1}}
        )


async def test_gpus_of_different_pods_cannot_share_a_stage(kube: Kube) -> None:
    resources = {"limits": {"nvidia.com/gpu": 2}}
    with pytest.raises(KubeError, match=r"tensor x expert must divide resources\.limits nvidia"):
        await InferenceService(kube, "bad").apply(parallelism={"tensor": 4}, resources=resources)


async def test_labels_of_the_operator_cannot_be_taken(kube: Kube) -> None:
    labels = {"app.kubernetes.io/component": "router"}
    with pytest.raises(KubeError, match="belong to the operator; choose another name"):
        await InferenceService(kube, "bad").apply(podTemplate={"labels": labels})


@pytest.mark.parametrize(
    ("template", "remedy"),
    [
        ({"volumes": [{"name": "data"}]}, "has one source; set one of"),
        ({"volumes": [{"name": "token", "emptyDir": {}}]}, "belong to the operator"),
        ({"volumeMounts": [{"name": "data", "mountPath": "/data"}]}, "needs a volume of its name"),
        (
            {
                "volumes": [{"name": "data", "emptyDir": {}}],
                "volumeMounts": [{"name": "data", "mountPath": "/models/mine"}],
            },
            "choose another path, such as /data",
        ),
    ],
)
async def test_a_bad_volume_is_rejected_with_the_remedy(
    kube: Kube, template: Json, remedy: str
) -> None:
    with pytest.raises(KubeError) as rejection:
        await InferenceService(kube, "bad").apply(podTemplate=template)
    assert remedy in str(rejection.value)


async def _appear(kube: Kube, resource: str, number: int) -> list[Json]:
    """So many objects of a kind, once they are there."""
    found = await kube.until(resource, lambda objects: len(objects) >= number, 120)
    return sorted(found, key=lambda each: str(each["metadata"]["name"]))


async def _until_said(system: Kube, words: str) -> None:
    """Return once the log of an operator pod has these words."""
    selector = "--selector=app.kubernetes.io/component=operator"
    async with asyncio.timeout(120), aclosing(system.watch("leases")) as states:
        async for _ in states:  # one every two seconds
            if words in await system.run("logs", selector, "--tail=-1"):
                return
