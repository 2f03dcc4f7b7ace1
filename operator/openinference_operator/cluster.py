"""The only module that talks to the API server: one call per function, errors as our own.

Objects are plain dicts. Writes go through server-side apply with one field manager, except the
creation of what is written once. `force` is only for objects that are known to be ours: there it
repairs what somebody edited; over an object of somebody else it would be theft.
"""

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import client, config

from openinference_operator import names
from openinference_operator.errors import AlreadyExists, ApiError, Conflict, NotFound
from openinference_operator.metrics import API_CALLS
from openinference_operator.operations import Reference
from openinference_operator.resources import RESOURCES
from openinference_operator.store import Object

READ_TIMEOUT_SECONDS = 15.0
WRITE_TIMEOUT_SECONDS = 4.0  # ends before another leader may begin (see `lease`)
PAGE_SIZE = 500
APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"


class Cluster:
    """A connection to the API server."""

    def __init__(self, api: client.ApiClient) -> None:
        self._api = api

    @staticmethod
    async def connect() -> "Cluster":
        """Connect as the pod's ServiceAccount, or as KUBECONFIG says outside of a cluster."""
        # Without the proxies of the environment: to look them up, in a thread and in a file of the
        # home folder too, was a fifth of the operator's time. A kubeconfig may name its own.
        configuration = client.Configuration(client_session_kwargs={"trust_env": False})
        try:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        except config.ConfigException:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        return Cluster(client.ApiClient(configuration))

    async def close(self) -> None:
        """Close the connection."""
        await self._api.close()  # type: ignore[no-untyped-call]

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read one object. Raises NotFound."""
        return await self._call("GET", kind, namespace, name)

    async def list_all(
        self, kind: str, namespace: str, label_selector: str, field_selector: str = ""
    ) -> AsyncIterator[Object]:
        """All objects of a kind, page by page; an empty namespace means every one."""
        query = {"limit": str(PAGE_SIZE), "labelSelector": label_selector}
        if field_selector:
            query["fieldSelector"] = field_selector
        while True:
            page = await self._call("GET", kind, namespace, query=query)
            for item in page["items"]:
                yield {"kind": kind, **item}
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return

    async def create(self, manifest: Mapping[str, Any]) -> Object:
        """Create an object. Raises AlreadyExists."""
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        query = {"fieldManager": names.FIELD_MANAGER}
        return await self._call("POST", kind, namespace, query=query, body=manifest)

    async def replace(self, manifest: Mapping[str, Any]) -> Object:
        """Replace an object in the version that the manifest names. Raises Conflict."""
        metadata = manifest["metadata"]
        return await self._call(
            "PUT", manifest["kind"], metadata["namespace"], metadata["name"], body=manifest
        )

    async def apply(
        self, manifest: Mapping[str, Any], *, force: bool, subresource: str = ""
    ) -> Object:
        """Server-side apply. Without `force`, raises Conflict over a field of somebody else."""
        metadata = manifest["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true" if force else "false"}
        return await self._call(
            "PATCH",
            manifest["kind"],
            metadata["namespace"],
            metadata["name"],
            subresource=subresource,
            query=query,
            body=manifest,
            content_type=APPLY_PATCH,
        )

    async def annotate(
        self,
        reference: Reference,
        annotations: Mapping[str, str | None],
        replicas: int | None = None,
    ) -> Object:
        """Set annotations, and a number of replicas, of exactly this version. Raises Conflict."""
        metadata = {
            "uid": reference.uid,
            "resourceVersion": reference.resource_version,
            "annotations": dict(annotations),
        }
        spec = {} if replicas is None else {"spec": {"replicas": replicas}}
        return await self._call(
            "PATCH",
            reference.kind,
            reference.namespace,
            reference.name,
            query={"fieldManager": names.FIELD_MANAGER},
            body={"metadata": metadata} | spec,
            content_type=MERGE_PATCH,
        )

    async def delete(self, reference: Reference) -> Object:
        """Delete exactly this version of an object, after what it owns. Raises Conflict."""
        preconditions = {"uid": reference.uid}
        if reference.resource_version:
            preconditions["resourceVersion"] = reference.resource_version
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground",
            "preconditions": preconditions,
        }
        return await self._call(
            "DELETE", reference.kind, reference.namespace, reference.name, body=options
        )

    async def last_log_line(self, namespace: str, pod: str, container: str) -> str:
        """What a container said last; empty while it has said nothing. Raises NotFound."""
        query = {"container": container, "tailLines": "1", "limitBytes": "4096"}
        status, content = await self._send(
            "GET", "Pod", namespace, pod, subresource="log", query=query, accept="*/*"
        )
        said = content.decode(errors="replace")
        if status != 200:
            raise _error(status, {"message": said}, f"GET Pod {namespace}/{pod}/log")
        return said

    async def _call(
        self,
        method: str,
        kind: str,
        namespace: str,
        name: str = "",
        *,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        status, content = await self._send(
            method,
            kind,
            namespace,
            name,
            subresource=subresource,
            query=query,
            body=body,
            content_type=content_type,
        )
        try:
            payload: dict[str, Any] = msgspec.json.decode(content)
        except msgspec.DecodeError:  # as for a path that the API server does not know
            status = 0 if status < 400 else status
            payload = {"message": content[:200].decode(errors="replace").strip()}
        if 200 <= status < 300:
            return payload
        raise _error(status, payload, f"{method} {kind} {namespace}/{name}")

    async def _send(
        self,
        method: str,
        kind: str,
        namespace: str,
        name: str,
        *,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, bytes]:
        """One exchange; status 0 when the API server does not answer, with the reason as JSON."""
        path = RESOURCES[kind].path(namespace, name)
        request = await self._api.param_serialize(
            method,
            f"{path}/{subresource}" if subresource else path,
            query_params=list((query or {}).items()),
            header_params={"Content-Type": content_type, "Accept": accept},
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = READ_TIMEOUT_SECONDS if method == "GET" else WRITE_TIMEOUT_SECONDS
        status, content = await self._exchange(request, timeout)
        API_CALLS.labels(verb=method, kind=kind, code=str(status)).inc()
        return status, content

    async def _exchange(
        self, request: tuple[Any, ...], timeout_seconds: float
    ) -> tuple[int, bytes]:
        method, url, headers, body, _ = request
        try:
            response = await self._api.call_api(
                method, url, headers, body, _request_timeout=timeout_seconds
            )
            return response.status, await response.response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"the API server does not answer: {error!r}"
            return 0, json.dumps({"message": message}).encode()


def _error(status: int, payload: Mapping[str, Any], call: str) -> ApiError:
    message = f"{call}: {payload.get('message', payload)}"
    if status == 404:
        return NotFound(status, message)
    if status == 409 and payload.get("reason") == "AlreadyExists":
        return AlreadyExists(status, message)
    if status == 409:
        return Conflict(status, message)
    details = payload.get("details") or {}
    return ApiError(status, message, float(details.get("retryAfterSeconds") or 0))
