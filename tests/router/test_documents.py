"""The version and the description of the API, as a client gets them through the router."""

import json

import openinference_engine.version
from openinference_router.documents import restrict
from openinference_router.wire import QueuePolicy


async def test_the_version_is_the_engines(make_bench):
    """Router and engine come in one distribution."""
    bench = await make_bench()
    async with bench.client.get(f"{bench.url}/version") as response:
        assert await response.json() == {"version": openinference_engine.version.VERSION}


async def test_the_description_names_what_this_port_answers(front, client):
    async with client.get(f"{front.url}/openapi.json") as response:
        assert response.status == 200
        described = await response.json()
    generating = {"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}
    tools = {"/tokenize", "/detokenize", "/version", "/openapi.json", "/v1/models"}
    assert described["paths"].keys() == generating | tools
    assert "ChatRequest" in described["components"]["schemas"]


async def test_without_a_ready_replica_there_is_no_description(make_bench, make_routing):
    bench = await make_bench(make_routing(queue=QueuePolicy(cold_start_timeout_seconds=0.1)))
    async with bench.client.get(f"{bench.url}/openapi.json") as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "no_capacity"


async def test_a_replica_that_cannot_describe_itself_is_passed_over(
    play, make_bench, make_routing, make_routed
):
    """The played engine answers no such request."""
    engine = await play()
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.client.get(f"{bench.url}/openapi.json") as response:
        assert response.status == 503


def test_a_document_keeps_all_but_the_paths_that_are_not_answered():
    document = {"openapi": "3.1.0", "paths": {"/a": {"get": {}}, "/load": {}}, "x": [1]}
    assert json.loads(restrict(json.dumps(document).encode(), {"/a"})) == {
        "openapi": "3.1.0",
        "paths": {"/a": {"get": {}}},
        "x": [1],
    }
