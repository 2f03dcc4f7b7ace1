"""The Kubernetes API server at the router's border, over real HTTP: lists, watches and Secrets."""

import asyncio
import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from aiohttp import web
from openinference_router.wire import Routing


@dataclass
class Collection:
    """One kind of object; `put_object`, `delete` and `expire` change what a watch of it sees."""

    version: int = 1
    items: dict[str, dict] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    watchers: set[asyncio.Queue] = field(default_factory=set)
    queries: list[dict] = field(default_factory=list)
    is_compacted: bool = False  # every watch is told at once that its version is too old
    is_forbidden: bool = False

    @property
    def num_lists(self) -> int:
        return sum(query.get("watch", "").lower() != "true" for query in self.queries)

    def put_object(self, name: str, **content) -> None:
        self.version += 1
        metadata = {"name": name, "resourceVersion": str(self.version)}
        kind = "MODIFIED" if name in self.items else "ADDED"
        self.items[name] = {"metadata": metadata, **content}
        self._happen(kind, self.items[name])

    def delete(self, name: str) -> None:
        self.version += 1
        gone = self.items.pop(name)
        metadata = gone["metadata"] | {"resourceVersion": str(self.version)}
        self._happen("DELETED", {**gone, "metadata": metadata})

    def expire(self) -> None:
        """End each watch the way etcd's compaction does."""
        self._send({"type": "ERROR", "object": {"kind": "Status", "code": 410}})

    def hang_up(self) -> None:
        """Break each watch's connection."""
        self._send(None)

    def _happen(self, kind: str, item: dict) -> None:
        self.history.append({"type": kind, "object": item})
        self._send(self.history[-1])

    def _send(self, event: dict | None) -> None:
        for watcher in self.watchers:
            watcher.put_nowait(event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.queries.append(dict(request.query))
        if self.is_forbidden:
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        if request.query.get("watch", "").lower() != "true":
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": metadata, "items": list(self.items.values())})
        if self.is_compacted:
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        events: asyncio.Queue = asyncio.Queue()
        for event in self.history:
            if _version(event) > int(request.query["resourceVersion"]):
                events.put_nowait(event)
        self.watchers.add(events)
        try:
            while True:
                event = await events.get()
                if event is None:
                    request.transport.abort()
                    return response
                await response.write(json.dumps(event).encode() + b"\n")
                if event["type"] == "ERROR":
                    return response
        finally:
            self.watchers.discard(events)


@dataclass
class ApiServer(Collection):
    """Itself the ConfigMaps; beside them what the dashboard watches, and one Secret."""

    url: str = ""
    secret: dict[str, str] | None = None
    tls_secret: dict[str, str] | None = None
    services: Collection = field(default_factory=Collection)
    events: Collection = field(default_factory=Collection)

    async def read_secret(self, request: web.Request) -> web.Response:
        """`openinference-keys` or `openinference-tls`, its entries encoded as Kubernetes does."""
        is_tls = request.match_info["name"] == "openinference-tls"
        if (secret := self.tls_secret if is_tls else self.secret) is None:
            return web.json_response({"kind": "Status", "code": 404}, status=404)
        entries = {name: base64.b64encode(text.encode()).decode() for name, text in secret.items()}
        return web.json_response({"kind": "Secret", "data": entries})

    def put(self, name: str, text: str) -> None:
        self.put_object(name, data={"routing.json": text})

    def put_routing(self, routing: Routing) -> None:
        self.put(f"{routing.service}-routing", msgspec.json.encode(routing).decode())

    def kubeconfig(self, folder: Path) -> Path:
        path = folder / "kubeconfig"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(config))
        return path


def _version(event: dict) -> int:
    return int(event["object"]["metadata"]["resourceVersion"])
