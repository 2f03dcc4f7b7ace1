"""What the tests of the operator start from: raw objects, a model cluster, a model API server."""

import asyncio

import pytest
from aiohttp import web
from kubernetes.aio import client
from openinference_operator.cluster import Cluster
from openinference_operator.lease import Lease
from openinference_operator.spec import parse

from tests.operator.api_server import ApiServer
from tests.operator.raw import build_pod, build_service
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
