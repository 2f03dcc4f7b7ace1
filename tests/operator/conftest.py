"""What the tests of the operator start from: raw objects, a model cluster, a model API server."""

import asyncio
import time

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client
from openinference_operator.autoscaler import Autoscaler
from openinference_operator.cluster import Cluster
from openinference_operator.controller import Controller
from openinference_operator.events import Recorder
from openinference_operator.lease import Lease
from openinference_operator.namespace_router import NamespaceRouter
from openinference_operator.settings import Settings
from openinference_operator.signals.golden import GoldenChecks
from openinference_operator.signals.monitors import Monitors
from openinference_operator.signals.prometheus import WAITING, Prometheus
from openinference_operator.signals.router_state import RouterStates
from openinference_operator.signals.survey import Survey
from openinference_operator.spec import parse
from openinference_operator.store import Store
from openinference_operator.tokens import Tokens
from openinference_operator.trials import Trials
from openinference_operator.triggers import Triggers
from openinference_operator.workers import Workers
from openinference_operator.workqueue import WorkQueue
from openinference_operator.writer import Writer

from tests.operator.api_server import ApiServer
from tests.operator.raw import build_pod, build_service
from tests.operator.running import Running
from tests.operator.world import World


@pytest.fixture
def raw_service():
    return build_service


@pytest.fixture
def service(raw_service):
    return parse(raw_service())


@pytest.fixture
def raw_pod():
    return build_pod


@pytest.fixture
def make_world():
    def make(routers=2, **spec):
        return World(build_service(**spec), routers)

    return make


@pytest.fixture
async def server():
    api = ApiServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield api
    await runner.cleanup()


@pytest.fixture
async def cluster(server):
    connection = Cluster(client.ApiClient(client.Configuration(host=server.url)))
    yield connection
    await connection.close()


@pytest.fixture
async def lease(cluster):
    held = Lease(cluster, "system", "operator-0")
    task = asyncio.create_task(held.keep())
    await held.wait_until_held()
    yield held
    task.cancel()


@pytest.fixture
async def prometheus():
    """A Prometheus at the border that knows ten waiting requests of any service."""

    async def query(request):
        value = time.time() if "timestamp(" in request.query["query"] else 10
        metric = {"__name__": WAITING, "component": "router"}
        result = [{"metric": metric, "value": [time.time(), str(value)]}]
        data = {"resultType": "vector", "result": result}
        return web.json_response({"status": "success", "data": data})

    app = web.Application()
    app.router.add_get("/api/v1/query", query)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def running(server, cluster, lease, prometheus):
    store, queue, tokens = Store(), WorkQueue(), Tokens(cluster)
    async with aiohttp.ClientSession() as session:
        states = RouterStates(session, tokens.token_of, lambda *_: None)
        settings, triggers = Settings(engine_image="engine:1"), Triggers(store, states, queue)
        writer, recorder = Writer(cluster, lease, store), Recorder(cluster)
        controller = Controller(
            settings=settings,
            store=store,
            lease=lease,
            writer=writer,
            recorder=recorder,
            states=states,
            router=NamespaceRouter(
                settings, store, lease, writer, recorder, tokens, Monitors(cluster)
            ),
            triggers=triggers,
            autoscaler=Autoscaler(Prometheus(session, prometheus)),
            trials=Trials(Prometheus(session, prometheus), GoldenChecks(session, tokens.token_of)),
            survey=Survey(cluster),
            queue=queue,
        )
        workers = Workers(queue, lease, controller)
        tasks = [asyncio.create_task(workers.work()) for _ in range(2)]
        workers.start()
        yield Running(server, store, triggers, queue)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await states.close()
