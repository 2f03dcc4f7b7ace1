"""What a request and its answer look like on both sides of the router on a good day."""

import asyncio
import json

from aiohttp import web
from openinference_engine.server.app import ROUTES
from openinference_router.exchange import GENERATING, PASSED_ON
from openinference_router.wire import QueuePolicy
from played_engine import COMPLETE, DONE, chunk, cut_before_the_status, whole


async def test_engines_get_the_token_and_the_trace_but_never_the_clients_credentials(
    play, make_bench, make_routing, make_routed
):
    engine = await play(usual=whole)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {
        "Authorization": "Bearer client-secret",
        "Cookie": "session=secret",
        "X-OpenInference-Token": "forged",
        "X-Request-Id": "req-1",
        "traceparent": traceparent,
    }
    async with bench.chat(headers=headers) as response:
        assert response.headers["x-request-id"] == "req-1"
        assert response.headers["x-openinference-group"] == "demo-1a2b3c4d-0"
    sent = {name.lower(): value for name, value in engine.headers[0].items()}
    assert sent["x-openinference-token"] == "test-token"
    assert (sent["x-request-id"], sent["traceparent"]) == ("req-1", traceparent)
    assert not {"authorization", "cookie"} & sent.keys()


async def test_the_access_log_tells_the_story_without_the_prompt(
    play, make_bench, make_routing, make_routed, caplog
):
    caplog.set_level("INFO", logger="access")
    engine = await play(scripts=[cut_before_the_status], usual=whole)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    prompt = [{"role": "user", "content": "a private thought"}]
    headers = {"Authorization": "Bearer client-secret"}
    async with bench.chat(messages=prompt, headers=headers) as response:
        await response.read()
    record = next(record for record in caplog.records if record.name == "access")
    assert (record.service, record.code, len(record.groups)) == ("demo", 200, 2)
    everything = " ".join(str(vars(record)) for record in caplog.records)
    assert "private" not in everything
    assert "client-secret" not in everything


async def test_a_stream_passes_without_being_collected(play, make_bench, make_routing, make_routed):
    """Each event arrives while the engine still holds the next one back."""
    gates = [asyncio.Event() for _ in range(3)]

    async def gated(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, gate in enumerate(gates):
            await response.write(chunk(str(number), number))
            await gate.wait()
        await response.write(DONE)
        return response

    engine = await play(usual=gated)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with asyncio.timeout(60), bench.chat(stream=True) as response:
        for number, gate in enumerate(gates):
            event = await response.content.readuntil(b"\n\n")
            assert json.loads(event[6:])["choices"][0]["delta"]["content"] == str(number)
            gate.set()
        assert await response.content.read() == DONE


async def test_models_lists_every_service(make_bench, make_routing):
    bench = await make_bench(make_routing(), make_routing(service="other", model="org/big"))
    async with bench.client.get(f"{bench.url}/v1/models") as response:
        cards = (await response.json())["data"]
    assert {card["id"] for card in cards} == {"smollm2", "org/big"}
    async with bench.client.get(f"{bench.url}/v1/models/org/big") as response:
        assert (await response.json())["id"] == "org/big"


async def test_an_engine_without_the_token_is_never_admitted(
    play, make_bench, make_routing, make_routed, caplog, until
):
    engine = await play(usual=whole)
    routing = make_routing(
        make_routed(engine.address), queue=QueuePolicy(cold_start_timeout_seconds=0.1)
    )
    bench = await make_bench(routing, token="wrong")  # noqa: S106
    await until(lambda: "refused the token" in str([vars(record) for record in caplog.records]))
    async with bench.chat() as response:
        assert response.status == 503


async def test_connections_to_engines_are_reused(play, make_bench, make_routing, make_routed):
    ports = set()

    async def note_port(request: web.Request) -> web.StreamResponse:
        ports.add(request.transport.get_extra_info("peername")[1])
        return await COMPLETE(request)

    engine = await play(usual=note_port)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    for _ in range(5):
        async with bench.chat(stream=True) as response:
            assert (await response.read()).endswith(DONE)
    assert len(ports) == 1


async def test_a_group_where_nobody_listens_is_never_chosen(make_bench, make_routing, make_routed):
    queue = QueuePolicy(cold_start_timeout_seconds=0.2)
    bench = await make_bench(make_routing(make_routed("http://127.0.0.1:9"), queue=queue))
    async with bench.chat() as response:
        assert response.status == 503


def test_every_path_that_an_engine_answers_passes():
    paths = {path for method, path, _ in ROUTES if method == "POST"}
    assert {"/v1/chat/completions", "/tokenize"} <= paths <= GENERATING | PASSED_ON
