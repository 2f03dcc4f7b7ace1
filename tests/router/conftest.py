"""What surrounds a router: an API server that knows ConfigMaps, and engines real and played.

The API server and the played engine stand at the router's borders and speak real HTTP. Happy paths
run against the real engine; a played one does what a real one does only on a bad day. What these
fixtures are made of is in `support/`.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from api_server import ApiServer
from bench import Bench
from builders import TOKEN, listen, make_routed, make_routing, until
from openinference_router.app import client_app, internal_app
from openinference_router.dashboard.cluster import ClusterView
from openinference_router.dashboard.history import LiveHistory
from openinference_router.dashboard.pages import Dashboard
from openinference_router.documents import Documents
from openinference_router.keys import KeyRing
from openinference_router.metrics import Metrics
from openinference_router.proxy import Proxy
from openinference_router.router import Router
from openinference_router.wire import RoutedGroup, Routing
from played_engine import PlayedEngine
from processes import Engine, Process, RouterProcess, start_engine

from tests.ports import free_port


@pytest.fixture(name="until")
def until_fixture() -> Callable:
    return until


@pytest.fixture(name="make_routing")
def make_routing_fixture() -> Callable[..., Routing]:
    return make_routing


@pytest.fixture(name="make_routed")
def make_routed_fixture() -> Callable[..., RoutedGroup]:
    return make_routed


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
            await listen(stack, app, port)
            engine.address = f"http://127.0.0.1:{port}"
            return engine

        yield start


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
            await listen(stack, clients, port)
            await listen(stack, internal_app(router, keys, metrics, token), internal_port)
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
        await listen(stack, app, port)
        server.url = f"http://127.0.0.1:{port}"
        yield server


@pytest.fixture(scope="session")
def token_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN)
    return path


@pytest.fixture(scope="session")
def engines(tmp_path_factory, token_file) -> Iterator[list[Engine]]:
    """Two real engines with four seats each; a test that kills one restarts it."""
    folder = tmp_path_factory.mktemp("engines")
    started = [start_engine(folder, token_file, number) for number in range(2)]
    try:
        for engine in started:
            engine.process.wait_ready(f"{engine.url}/ready")
        yield started
    finally:
        for engine in started:
            engine.process.kill()


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
    router = start_router(endpoint_pause_seconds=5, keep_alive_seconds=0.3)
    await router.ready()
    await router.admitted(2)
    return router


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session
