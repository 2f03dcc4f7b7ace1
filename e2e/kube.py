"""The cluster as a user sees it: through kubectl, one namespace at a time.

Waiting is watching: `until` looks at every state that the API server reports and never sleeps.
Errors carry the command that failed, so that it can be typed again. Nothing here knows what an
InferenceService means.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from e2e.asks import Json
from e2e.cluster.kubectl import environment

# Where a collection lives; a watch needs its address because `kubectl get --watch` cannot start
# at a resource version and so may miss a deletion.
COLLECTIONS = {
    "pods": "/api/v1/namespaces/{}/pods",
    "events": "/api/v1/namespaces/{}/events",
    "services": "/api/v1/namespaces/{}/services",
    "namespaces": "/api/v1/namespaces",
    "statefulsets": "/apis/apps/v1/namespaces/{}/statefulsets",
    "deployments": "/apis/apps/v1/namespaces/{}/deployments",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
    "networkpolicies": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "servicemonitors": "/apis/monitoring.coreos.com/v1/namespaces/{}/servicemonitors",
    "prometheusrules": "/apis/monitoring.coreos.com/v1/namespaces/{}/prometheusrules",
    "inferenceservices": "/apis/openinference.dev/v1alpha1/namespaces/{}/inferenceservices",
}

_LONGEST_OBJECT_BYTES = 4 * 1024 * 1024  # etcd takes no more than 1.5 MiB


class KubeError(Exception):
    """kubectl failed, or a state was not reached in time."""


@dataclass(frozen=True, slots=True)
class Kube:
    """kubectl in one namespace."""

    namespace: str

    async def run(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl in the namespace and return what it printed."""
        return await command("kubectl", f"--namespace={self.namespace}", *arguments, stdin=stdin)

    async def create_namespace(self) -> None:
        await self.apply({"apiVersion": "v1", "kind": "Namespace", **_named(self.namespace)})

    async def delete_namespace(self, *, is_awaited: bool) -> None:
        """Delete the namespace, if there is one; `is_awaited`: until nothing is left of it."""
        await self.run(
            *("delete", "namespace", self.namespace, "--ignore-not-found"),
            *(f"--wait={str(is_awaited).lower()}", "--timeout=3m"),
        )

    async def apply(self, manifest: Json) -> None:
        await self.run("apply", "--filename=-", stdin=json.dumps(manifest))

    async def patch(self, resource: str, name: str, change: Json) -> None:
        """Merge a change into an object, as `kubectl patch --type=merge` does."""
        await self.run("patch", resource, name, "--type=merge", f"--patch={json.dumps(change)}")

    async def get(self, resource: str, name: str) -> Json:
        found: Json = json.loads(await self.run("get", resource, name, "--output=json"))
        return found

    async def list(self, resource: str, selector: str = "") -> Sequence[Json]:
        listed = await self.run("get", resource, f"--selector={selector}", "--output=json")
        items: Sequence[Json] = json.loads(listed)["items"]
        return items

    async def watch(self, collection: str, selector: str = "") -> AsyncGenerator[Sequence[Json]]:
        """All objects of a collection: now, and again after every change."""
        path = COLLECTIONS[collection].format(self.namespace)
        query = f"labelSelector={selector.replace('=', '%3D')}"
        while True:  # the API server ends a watch after some minutes; then list again
            listed = json.loads(await self.run("get", f"--raw={path}?{query}"))
            objects = {each["metadata"]["name"]: each for each in listed["items"]}
            yield list(objects.values())
            version = listed["metadata"]["resourceVersion"]
            async with aclosing(
                _events(f"{path}?{query}&watch=1&resourceVersion={version}")
            ) as events:
                async for event in events:
                    _fold(objects, event)
                    yield list(objects.values())

    async def until(
        self,
        collection: str,
        is_reached: Callable[[Sequence[Json]], bool],
        timeout_seconds: float,
        selector: str = "",
    ) -> Sequence[Json]:
        """Return the objects of the first state that `is_reached` accepts."""
        objects: Sequence[Json] = ()
        try:
            async with (
                asyncio.timeout(timeout_seconds),
                aclosing(self.watch(collection, selector)) as states,
            ):
                async for objects in states:
                    if is_reached(objects):
                        return objects
        except TimeoutError:
            pass
        last_seen = "\n".join(map(_summary, objects)) or "none"
        raise KubeError(
            f"{collection} in {self.namespace} did not get there in {timeout_seconds:g} s; last "
            f"seen:\n{last_seen}"
        )

    async def diagnostics(self) -> str:
        """What one would look at first: objects, events, the end of each pod's log."""
        pods = (await self._try("get", "pods", "--output=name")).split()
        ends = [("logs", pod, "--tail=40", "--all-containers") for pod in pods]
        commands = [
            ("get", "infsvc,statefulsets,deployments,pods,services", "--output=wide"),
            ("get", "infsvc", "--output=yaml"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            *ends,
            *((*each, "--previous") for each in ends),
        ]
        sections = [f"$ kubectl {' '.join(each)}\n{await self._try(*each)}" for each in commands]
        return "\n".join(sections)

    async def _try(self, *arguments: str) -> str:
        try:
            return await self.run(*arguments, "--request-timeout=10s")
        except KubeError as error:
            return str(error)


async def command(*words: str, stdin: str = "") -> str:
    """Run a program against the cluster and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *words,
        env=os.environ | environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, complaint = await process.communicate(stdin.encode())
    finally:
        await _end(process)
    if process.returncode:
        raise KubeError(f"`{' '.join(words)}` failed: {complaint.decode().strip()}")
    return output.decode()


def condition(resource: Json, kind: str) -> Json:
    """The status condition of that type; empty when there is none."""
    conditions = resource.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind), {})


def is_true(resource: Json, kind: str) -> bool:
    """Whether the condition is True for the present spec, not for an earlier one."""
    found = condition(resource, kind)
    generation = resource["metadata"].get("generation")
    is_current = found.get("observedGeneration", generation) == generation
    return found.get("status") == "True" and is_current


async def _events(path: str) -> AsyncGenerator[Json]:
    """The events of a watch until the API server ends it."""
    process = await asyncio.create_subprocess_exec(
        *("kubectl", "get", f"--raw={path}"),
        env=os.environ | environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=_LONGEST_OBJECT_BYTES,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            event = json.loads(line)
            if event["type"] == "ERROR":  # the resource version is too old by now
                return
            yield event
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave no process behind, also when the caller gave up waiting."""
    if process.returncode is None:
        process.kill()
    await process.wait()


def _summary(found: Json) -> str:
    """One line: what it is called, since when it goes if it does, its status."""
    metadata = found["metadata"]
    going = f" (deleted {metadata['deletionTimestamp']})" if "deletionTimestamp" in metadata else ""
    return f"{metadata['name']}{going}: {json.dumps(found.get('status', found))}"


def _fold(objects: dict[str, Json], event: Json) -> None:
    name = event["object"]["metadata"]["name"]
    if event["type"] == "DELETED":
        objects.pop(name, None)
    else:
        objects[name] = event["object"]


def _named(name: str) -> Json:
    return {"metadata": {"name": name}}
