"""A model from a web server: fetched once for two replicas, and never again."""

import asyncio
import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.asks import SHORT_ASKS, Ask, Json
from e2e.cluster.places import STATE
from e2e.inference_service import MODEL, InferenceService
from e2e.kube import Kube, condition
from e2e.reach import reach
from e2e.traffic import Traffic
from e2e.verdict import Reference

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
GPU = "nvidia.com/gpu"
SERVER = (Path(__file__).parent / "model_server.py").read_text()
CACHED = {
    "model": {"uri": f"http://models/{WEIGHTS}", "name": MODEL, "cache": {"pvc": "models"}},
    "replicas": 2,
    "rollout": {"maxSurge": 2},
    "resources": {
        "requests": {"cpu": "100m", "memory": "512Mi"},
        "limits": {"cpu": "1", "memory": "2Gi"},
    },
}


@pytest.fixture(scope="module")
def source(kube: Kube) -> Iterator[Kube]:
    """A web server with the weights, and an empty claim on the disk of one node.

    The node says from the start that it has a small GPU: the operator looks once in a minute.
    """
    node, _, _ = asyncio.run(kube.run("get", "nodes", "--output=name")).partition("\n")
    amounts = json.dumps({"status": {"capacity": {GPU: "1"}, "allocatable": {GPU: "1"}}})
    asyncio.run(kube.run("label", node, f"{GPU}.memory=1024", "--overwrite"))
    asyncio.run(
        kube.run("patch", node, "--subresource=status", "--type=merge", f"--patch={amounts}")
    )
    asyncio.run(_make_source(kube))
    yield kube
    asyncio.run(kube.run("label", node, f"{GPU}.memory-"))
    asyncio.run(kube.run("delete", "infsvc", "--all"))
    asyncio.run(kube.run("delete", "pod/models", f"pv/{kube.namespace}-models", "--wait=false"))


async def test_two_replicas_share_one_download_that_is_never_repeated(
    source: Kube, references: dict[Ask, Reference]
) -> None:
    service = InferenceService(source, "cached")
    await service.apply(**CACHED)
    during = await service.until(lambda each: _ready(each)["reason"] == "Downloading")
    assert re.search(r"B of 98\.4 MB|it has begun", _ready(during)["message"])
    assert during["status"]["replicas"] == 0

    done = await service.until_ready()
    model, plan = done["status"]["model"], done["status"]["plan"]
    assert model["resolvedRevision"] == "of-the-sample"
    assert model["downloadedBytes"] == model["sizeBytes"] == await _sent(source)
    assert plan["weightsPerGPU"] < model["sizeBytes"]
    assert plan["maxConcurrency"] > 0
    async with (
        reach(source, service.name, 80) as url,
        Traffic(url, MODEL, references) as traffic,
    ):
        await traffic.learn([*SHORT_ASKS])

    await source.run("delete", "jobs", "--all")
    await service.upgrade("two")
    await service.until_ready()
    assert await _sent(source) == model["sizeBytes"]


async def test_what_is_in_a_claim_is_looked_at_and_read_where_it_is(source: Kube) -> None:
    """As a model of the claim, and as a file of a volume of one's own."""
    [group, *_] = await InferenceService(source, "cached").groups()
    command = group["spec"]["template"]["spec"]["containers"][0]["command"]
    place = command[-1].removeprefix("file:///models/")
    as_claim, as_volume = InferenceService(source, "claimed"), InferenceService(source, "mounted")
    spec = CACHED | {"replicas": 1}
    await as_claim.apply(**spec | {"model": {"uri": f"pvc://models/{place}", "name": "claimed"}})
    template = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "models"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    }
    await as_volume.apply(
        **spec
        | {"model": {"uri": f"file:///data/{place}", "name": "mounted"}, "podTemplate": template}
    )
    claimed, mounted = await as_claim.until_ready(), await as_volume.until_ready()
    assert _ready(claimed)["reason"] == "ModelFetched"
    assert claimed["status"]["plan"]["maxConcurrency"] > 0
    assert _ready(mounted)["reason"] == "ModelInPlace"
    await source.run("delete", "infsvc", as_claim.name, as_volume.name)


async def test_a_model_that_no_gpu_can_hold_starts_no_replica(source: Kube) -> None:
    service = InferenceService(source, "large")
    await service.apply(**CACHED | {"resources": {"limits": {GPU: "1"}}})
    refused = await service.until(lambda each: _ready(each)["reason"] == "ModelTooLarge")
    assert "269.0 MB of weights" in _ready(refused)["message"]
    assert "node that fits has 1.1 GB. What would fit: GPUs of" in _ready(refused)["message"]
    assert refused["status"]["plan"]["gpusPerReplica"] == 1
    assert refused["status"]["replicas"] == 0


async def test_a_model_that_does_not_exist_says_so_and_starts_no_replica(source: Kube) -> None:
    service = InferenceService(source, "absent")
    await service.apply(
        **CACHED | {"model": {"uri": "http://models/no.gguf", "cache": {"pvc": "models"}}}
    )
    failed = await service.until(lambda each: _ready(each)["reason"] == "DownloadFailed")
    assert "http://models/no.gguf does not exist; correct model.uri" in _ready(failed)["message"]
    assert failed["status"]["replicas"] == 0
    await source.run("delete", "infsvc", service.name)


def _ready(service: Json) -> Json:
    return {"reason": "", "message": ""} | condition(service, "ModelReady")


async def _sent(kube: Kube) -> int:
    """Bytes of models that the web server has sent."""
    log = await kube.run("logs", "models")
    return sum(map(int, re.findall(r"^sent (\d+)$", log, re.MULTILINE)))


async def _make_source(kube: Kube) -> None:
    [node] = (await kube.run("get", "nodes", "--output=name")).splitlines()[:1]
    place = f"{STATE}/volumes/{secrets.token_hex(4)}"
    for each in (_server(place), _address(), *_volume(kube, place, node.rpartition("/")[2])):
        await kube.apply(each)
    await kube.run("wait", "pod/models", "--for=condition=Ready", "--timeout=3m")


def _server(place: str) -> Json:
    """The web server; mounting the place of the volume makes it, too."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "models", "labels": {"app": "models"}},
        "spec": {
            "containers": [
                {
                    "name": "models",
                    "image": "openinference/engine:dev",
                    "command": ["python3", "-c", SERVER],
                    "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
                    "volumeMounts": [{"name": "place", "mountPath": "/place"}],
                }
            ],
            "volumes": [
                {"name": "place", "hostPath": {"path": place, "type": "DirectoryOrCreate"}}
            ],
            "terminationGracePeriodSeconds": 0,
        },
    }


def _address() -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "models"},
        "spec": {"selector": {"app": "models"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }


def _volume(kube: Kube, place: str, node: str) -> list[Json]:
    """A static volume on a node, and the claim that is bound to it."""
    name = f"{kube.namespace}-models"
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    shared: Json = {"storageClassName": "", "accessModes": ["ReadWriteOnce"]}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            **shared,
            "capacity": {"storage": "1Gi"},
            "claimRef": {"namespace": kube.namespace, "name": "models"},
            "local": {"path": place},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models"},
        "spec": {**shared, "volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }
    return [volume, claim]
