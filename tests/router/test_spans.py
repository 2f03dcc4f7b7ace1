"""Spans arrive at a real OTLP endpoint, between the caller's span and the engine's."""

import asyncio

import pytest
from aiohttp import web
from openinference_router.spans import Spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.ports import free_port

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
async def collector():
    """The address of an OTLP endpoint, and the spans that it received."""
    received: asyncio.Queue = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        export = ExportTraceServiceRequest.FromString(await request.read())
        for span in export.resource_spans[0].scope_spans[0].spans:
            received.put_nowait(span)
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}", received
    await runner.cleanup()


async def answer(_: web.Request) -> web.Response:
    return web.json_response({})


async def test_a_request_is_a_span_between_its_caller_and_the_engine(
    collector, play, make_bench, make_routing, make_routed
):
    endpoint, received = collector
    spans = Spans(endpoint, "team-a")
    engine = await play(usual=answer)
    bench = await make_bench(make_routing(make_routed(engine.address)), spans=spans)
    await bench.admitted()
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "Authorization": "Bearer secret"}
    messages = [{"role": "user", "content": "a private thought"}]
    async with bench.chat(headers=headers, messages=messages) as response:
        assert response.status == 200
    await asyncio.to_thread(spans.close)
    span = received.get_nowait()
    assert span.name == "POST /v1/chat/completions"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert engine.headers[0]["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    said = {each.key: each.value for each in span.attributes}
    assert said["openinference.service"].string_value == "demo"
    assert said["http.response.status_code"].int_value == 200
    assert "private" not in str(span)
    assert "secret" not in str(span)
