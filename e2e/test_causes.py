"""What keeps a replica from running is said with the number or the object behind it.

All services are applied at once; each test then waits for what the status of one says.
"""

import asyncio
from collections.abc import Iterator

import pytest

from e2e.asks import Json
from e2e.fake_gpus import GPU, give_gpus
from e2e.inference_service import InferenceService
from e2e.kube import Kube, condition

SERVICES: dict[str, Json] = {
    "four-gpus": {"resources": {"limits": {GPU: "4"}}},
    "no-image": {"engine": {"image": "openinference/absent:dev"}},
    "no-memory": {"resources": {"limits": {"memory": "100Mi"}}},
    "no-volume": {
        "podTemplate": {
            "volumes": [{"name": "data", "configMap": {"name": "absent"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
    },
    "no-path": {
        "podTemplate": {
            "volumes": [{"name": "data", "configMap": {"name": "kube-root-ca.crt"}}],
            # A file, so that nothing can be below it.
            "volumeMounts": [{"name": "data", "mountPath": "/data", "subPath": "ca.crt/absent"}],
        }
    },
    "no-secret": {
        "model": {"uri": "https://models.invalid/m.gguf", "secretRef": {"name": "absent"}}
    },
    "no-node": {"podTemplate": {"nodeSelector": {"no.such/label": "anywhere"}}},
}
SAID = {
    # service: (condition, reason, words)
    "four-gpus": ("Scheduled", "InsufficientGPU", f"needs 4 {GPU} on one node, largest free is 2"),
    "no-image": ("GroupsHealthy", "ImagePullFailed", "image openinference/absent:dev"),
    "no-memory": ("GroupsHealthy", "OutOfMemory", "more memory than its limit of 100Mi"),
    "no-volume": ("GroupsHealthy", "PodNotStarted", 'configmap "absent" not found'),
    "no-path": ("GroupsHealthy", "ContainerConfigError", "failed to prepare subPath"),
    "no-secret": ("ModelReady", "DownloadFailed", 'secret "absent" not found'),
    "no-node": ("Scheduled", "Unschedulable", "didn't match Pod's node affinity/selector"),
}


@pytest.fixture(scope="module")
def troubled(kube: Kube) -> Iterator[Kube]:
    """A node that says it has two GPUs, and services that cannot run."""
    node, _, _ = asyncio.run(kube.run("get", "nodes", "--output=name")).partition("\n")
    asyncio.run(give_gpus(kube, node, "2"))
    for name, spec in SERVICES.items():
        asyncio.run(InferenceService(kube, name).apply(**spec))
    yield kube
    asyncio.run(give_gpus(kube, node, None))


@pytest.mark.parametrize("name", SERVICES)
async def test_what_keeps_a_replica_from_running_is_said(troubled: Kube, name: str) -> None:
    kind, reason, words = SAID[name]

    def is_said(service: Json) -> bool:
        found = condition(service, kind)
        return found.get("reason") == reason and words in found["message"]

    service = await InferenceService(troubled, name).until(is_said)
    assert condition(service, kind)["status"] == "False"
    assert condition(service, "Ready")["status"] == "False"
    assert words in condition(service, "Ready")["message"]
