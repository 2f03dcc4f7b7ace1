"""Bad days: what engines do to a request, and what its client sees of it."""

import asyncio
import json
import re

import pytest
from aiohttp import web
from msgspec.structs import replace
from openinference_engine.server.app import ROUTES
from openinference_router.exchange import GENERATING, PASSED_ON
from openinference_router.wire import QueuePolicy


def chunk(text: str, token_id: int | None = None, finish: str | None = None) -> bytes:
    fields = {
        "id": "chatcmpl-1",
        "created": 1,
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}],
    }
    if token_id is not None:
        fields["openinference"] = {"token_ids": {"0": [token_id]}}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


async def whole(request: web.Request) -> web.Response:
    return web.json_response({"id": "x", "seed": (await request.json())["seed"]})


def says(*parts: bytes, then=None):
    """A stream of `parts`; `then` may cut it or stall."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if then is not None:
            await then(request)
        return response

    return script


async def cut(request: web.Request) -> None:
    request.transport.abort()


async def stall(_: web.Request) -> None:
    await asyncio.sleep(60)


async def cut_before_the_status(request: web.Request) -> web.Response:
    request.transport.abort()
    return web.Response()


async def cut_inside_the_headers(request: web.Request) -> web.Response:
    request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/ev")
    request.transport.close()
    return web.Response()


async def not_http(request: web.Request) -> web.Response:
    request.transport.write(b"220 mail.example.com ESMTP\r\n\r\n")
    return web.Response()


async def cut_inside_the_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id"')
    request.transport.abort()
    return response


def answers(status: int, document: object):
    async def script(_: web.Request) -> web.Response:
        return web.json_response(document, status=status)

    return script


UNAVAILABLE = {"error": {"message": "gone", "type": "service_unavailable_error"}}
DONE = b"data: [DONE]\n\n"
COMPLETE = says(chunk("Hi", 5), chunk("!", 6, "stop"), DONE)

FAILURES = {
    "reset before the status": cut_before_the_status,
    "cut inside the headers": cut_inside_the_headers,
    "not HTTP at all": not_http,
    "cut inside the body": cut_inside_the_body,
    "draining": answers(503, {"error": {"message": "draining"}}),
    "full": answers(429, {"error": {"message": "full"}}),
    "token refused": answers(401, {"error": {"message": "token"}}),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_a_request_is_made_again_elsewhere(
    play, make_bench, make_routing, make_routed, failure
):
    bad, good = await play(scripts=[failure], usual=whole), await play(usual=whole)
    good.load["running"] = 1
    routing = make_routing(make_routed(bad.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing)
    await bench.admitted(2)
    async with bench.chat() as response:
        assert response.status == 200
        answer = await response.json()
    assert len(bad.bodies) == len(good.bodies) == 1
    assert bad.bodies == good.bodies
    assert answer["seed"] == bad.bodies[0]["seed"]


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
async def test_an_only_replica_is_asked_again_when_it_is_back(
    play, make_bench, make_routing, make_routed, failure
):
    engine = await play(scripts=[failure], usual=whole)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat() as response:
        assert response.status == 200
    assert len(engine.bodies) == 2


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_an_engines_own_refusal_is_the_answer(
    play, make_bench, make_routing, make_routed, status
):
    document = {"error": {"message": "no", "type": "invalid_request_error"}}
    engine = await play(usual=answers(status, document))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True) as response:
        assert response.status == status
        assert await response.json() == document
    assert len(engine.bodies) == 1


CUTS = {
    "reset": says(chunk("", None), chunk("Hi", 5), then=cut),
    "closed without an end": says(chunk("Hi", 5)),
    "an error event": says(chunk("Hi", 5), b"data: " + json.dumps(UNAVAILABLE).encode() + b"\n\n"),
    "rubbish": says(chunk("Hi", 5), b"data: %%%\n\n"),
    "a stall": says(chunk("Hi", 5), then=stall),
}


@pytest.mark.parametrize("cutting", CUTS.values(), ids=CUTS.keys())
async def test_a_cut_stream_goes_on_elsewhere_from_the_ids_it_had(
    play, make_bench, make_routing, make_routed, cutting
):
    bad, good = await play(scripts=[cutting]), await play(usual=says(chunk("!", 6, "stop"), DONE))
    good.load["running"] = 1
    routing = make_routing(make_routed(bad.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing, stall_timeout_seconds=0.3)
    await bench.admitted(2)
    async with bench.chat(stream=True) as response:
        text = (await response.read()).decode()
    contents = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    said = [content["choices"][0]["delta"]["content"] for content in contents]
    assert "".join(said) == "Hi!"
    assert text.endswith("data: [DONE]\n\n")
    assert "token_ids" not in text
    resume = good.bodies[0].pop("openinference")["resume"]
    begun = {"id": "chatcmpl-1", "created": 1}
    assert resume == begun | {"token_ids": {"0": [5]}, "cached_tokens": 0}
    bad.bodies[0].pop("openinference")
    assert good.bodies == bad.bodies


async def test_a_group_that_falls_silent_loses_its_streams_to_another(
    play, make_bench, make_routing, make_routed, monkeypatch
):
    monkeypatch.setattr("openinference_router.load.SILENT_SECONDS", 0.5)
    silent = await play(usual=says(chunk("Hi", 5), then=stall))
    good = await play(usual=says(chunk("!", 6, "stop"), DONE))
    good.load["running"] = 1
    routing = make_routing(make_routed(silent.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing, stall_timeout_seconds=60)
    await bench.admitted(2)
    async with bench.chat(stream=True) as response:
        await response.content.readuntil(b"\n\n")
        silent.is_silent = True
        assert (await response.read()).endswith(DONE)


async def test_a_group_is_listened_to_until_the_last_request_has_left_it(
    play, make_bench, make_routing, make_routed, monkeypatch
):
    """It is out of the routing when it falls silent; its stream must still move on."""
    monkeypatch.setattr("openinference_router.load.SILENT_SECONDS", 0.5)
    leaving = await play(usual=says(chunk("Hi", 5), then=stall))
    good = await play(usual=says(chunk("!", 6, "stop"), DONE))
    good.load["running"] = 1
    groups = [make_routed(leaving.address, "g0"), make_routed(good.address, "g1")]
    bench = await make_bench(make_routing(*groups), stall_timeout_seconds=60)
    await bench.admitted(2)
    async with bench.chat(stream=True) as response:
        await response.content.readuntil(b"\n\n")
        bench.router.apply([make_routing(groups[1], generation=2)])
        leaving.is_silent = True
        assert (await response.read()).endswith(DONE)


async def test_a_cut_stream_waits_for_its_only_replica(play, make_bench, make_routing, make_routed):
    script = says(chunk("Hi", 5), then=cut)
    engine = await play(scripts=[script], usual=says(chunk("!", 6, "stop"), DONE))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True) as response:
        text = await response.read()
    assert b": waiting" in text
    assert text.endswith(DONE)


@pytest.mark.parametrize(
    ("headers", "key"),
    [({"x-openinference-resume": "off"}, "k"), ({}, "another")],
    ids=["switched off", "no equal resume key"],
)
async def test_a_stream_that_cannot_resume_ends_with_an_error_event(
    play, make_bench, make_routing, make_routed, headers, key
):
    gate = asyncio.Event()

    async def cut_later(request: web.Request) -> None:
        await gate.wait()
        await cut(request)

    lost = await play(usual=says(chunk("Hi", 5), then=cut_later))
    other = await play(usual=COMPLETE)
    other.load |= {"running": 1, "resumeKey": key}
    groups = [make_routed(lost.address, "g0"), make_routed(other.address, "g1")]
    bench = await make_bench(make_routing(*groups))
    await bench.admitted(2)
    async with bench.chat(stream=True, headers=headers) as response:
        await response.content.readuntil(b"\n\n")
        bench.router.apply([make_routing(groups[1], generation=2)])
        gate.set()
        *_, error, done, _ = (await response.read()).split(b"\n\n")
    assert json.loads(error[6:])["error"]["type"] == "service_unavailable_error"
    assert done == b"data: [DONE]"
    assert other.bodies == []


async def test_a_request_that_breaks_everything_it_touches_is_given_up(
    play, make_bench, make_routing, make_routed
):
    engines = [await play(usual=cut_before_the_status) for _ in range(6)]
    groups = [make_routed(engine.address, f"g{n}") for n, engine in enumerate(engines)]
    bench = await make_bench(make_routing(*groups))
    await bench.admitted(6)
    async with bench.chat() as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "gave_up"
    assert sum(len(engine.bodies) for engine in engines) == 5


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


async def test_requests_beyond_the_bounded_line_are_429(play, make_bench, make_routing):
    bench = await make_bench(make_routing(queue=QueuePolicy(max_requests=2)))
    waiting = [asyncio.create_task(bench.chat().__aenter__()) for _ in range(2)]
    await bench.held(2)
    async with bench.chat() as response:
        assert response.status == 429
        assert response.headers["Retry-After"]
        assert (await response.json())["error"]["code"] == "queue_full"
    for task in waiting:
        task.cancel()


async def test_no_replica_within_the_cold_start_budget_is_503(make_bench, make_routing):
    queue = QueuePolicy(cold_start_timeout_seconds=0.1)
    bench = await make_bench(make_routing(queue=queue))
    async with bench.chat(stream=True) as response:
        assert response.status == 503
        assert response.headers["Retry-After"]


async def test_requests_wait_for_the_first_replica_and_streams_hear_comments(
    play, make_bench, make_routing, make_routed
):
    engine = await play(usual=COMPLETE)
    bench = await make_bench(make_routing())
    async with bench.chat(stream=True) as response:
        assert (await response.content.readuntil(b"\n\n")).startswith(b": waiting")
        assert bench.demo.held == 1
        bench.router.apply([make_routing(make_routed(engine.address), generation=2)])
        assert (await response.read()).endswith(DONE)


async def test_a_budget_that_ends_after_the_first_comment_ends_the_stream_with_an_error(
    make_bench, make_routing
):
    bench = await make_bench(make_routing(queue=QueuePolicy(cold_start_timeout_seconds=0.5)))
    async with bench.chat(stream=True) as response:
        assert response.status == 200
        events = (await response.read()).split(b"\n\n")
    assert json.loads(events[-3][6:])["error"]["code"] == "no_capacity"


async def test_a_client_that_goes_away_leaves_the_line_at_once(make_bench, make_routing):
    bench = await make_bench(make_routing())
    task = asyncio.create_task(bench.chat().__aenter__())
    await bench.held(1)
    task.cancel()
    await bench.held(0)


async def test_a_client_that_goes_away_frees_the_engine(
    play, make_bench, make_routing, make_routed, until
):
    engine = await play(usual=says(chunk("Hi", 5), then=stall))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True) as response:
        await response.content.readuntil(b"\n\n")
        assert engine.num_open == 1
    await until(lambda: engine.num_open == 0)
    assert bench.demo.groups["demo-1a2b3c4d-0"].in_flight == 0


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
    async with asyncio.timeout(5), bench.chat(stream=True) as response:
        for gate in gates:
            await response.content.readuntil(b"\n\n")
            gate.set()


async def test_at_most_seats_and_look_ahead_are_inside_an_engine(
    play, make_bench, make_routing, make_routed, until
):
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return await whole(request)

    engine = await play(usual=slow)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()

    async def ask() -> int:
        async with bench.chat() as response:
            return response.status

    tasks = [asyncio.create_task(ask()) for _ in range(12)]
    await until(lambda: engine.num_open == 5)
    assert bench.demo.held == 7
    release.set()
    assert await asyncio.gather(*tasks) == [200] * 12


BAD_REQUESTS = [
    ("POST", "/v1/chat/completions", b"{", 400),
    ("POST", "/v1/chat/completions", b'{"model": "gpt-4"}', 404),
    ("POST", "/v1/chat/completions", b"{}", 400),
    ("POST", "/v1/chat/completions", b'{"x": "' + b"y" * 20_000 + b'"}', 413),
    ("POST", "/v1/engines", b"{}", 404),
    ("GET", "/v1/chat/completions", b"", 405),
    ("GET", "/v1/models/gpt-4", b"", 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), BAD_REQUESTS)
async def test_bad_requests_get_openais_error_object(
    make_bench, make_routing, method, path, body, status
):
    bench = await make_bench(make_routing())
    async with bench.client.request(method, bench.url + path, data=body) as response:
        assert response.status == status
        error = (await response.json())["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "Traceback" not in error["message"]


async def test_a_host_that_disagrees_with_the_model_is_a_404_that_names_both(
    make_bench, make_routing
):
    bench = await make_bench(make_routing(), make_routing(service="other", model="big"))
    async with bench.chat(headers={"Host": "other.team-a.svc"}) as response:
        assert response.status == 404
        message = (await response.json())["error"]["message"]
    assert "smollm2" in message
    assert "other" in message


async def test_models_lists_every_service(make_bench, make_routing):
    bench = await make_bench(make_routing(), make_routing(service="other", model="org/big"))
    async with bench.client.get(f"{bench.url}/v1/models") as response:
        cards = (await response.json())["data"]
    assert {card["id"] for card in cards} == {"smollm2", "org/big"}
    async with bench.client.get(f"{bench.url}/v1/models/org/big") as response:
        assert (await response.json())["id"] == "org/big"


async def test_oversized_headers_are_refused(make_bench, make_routing):
    bench = await make_bench(make_routing())
    async with bench.chat(headers={"X-Big": "x" * 20_000}) as response:
        assert response.status == 400
    many = {f"X-{number}": "x" for number in range(500)}
    async with bench.chat(headers=many) as response:
        assert response.status == 400


async def test_an_engine_without_the_token_is_never_admitted(
    play, make_bench, make_routing, make_routed, caplog
):
    engine = await play(usual=whole)
    routing = make_routing(
        make_routed(engine.address), queue=QueuePolicy(cold_start_timeout_seconds=0.3)
    )
    bench = await make_bench(routing, token="wrong")  # noqa: S106
    async with bench.chat() as response:
        assert response.status == 503
    assert "refused the token" in " ".join(str(vars(record)) for record in caplog.records)


async def test_a_client_can_be_slow_without_disturbing_others(
    play, make_bench, make_routing, make_routed
):
    flood = says(*[chunk("x" * 1000, n) for n in range(2000)], DONE)
    engine = await play(scripts=[flood], usual=whole)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True) as slow:
        await slow.content.readuntil(b"\n\n")
        async with bench.chat() as response:
            assert response.status == 200
        assert (await slow.read()).endswith(DONE)


async def test_a_client_that_stops_reading_loses_its_seat(
    play, make_bench, make_routing, make_routed, until, monkeypatch
):
    monkeypatch.setattr("openinference_router.reply.MAX_CLIENT_PAUSE_SECONDS", 0.3)
    flood = says(*[chunk("x" * 100_000, n) for n in range(500)], DONE)
    engine = await play(scripts=[flood])
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True) as response:
        await response.content.readuntil(b"\n\n")
        await until(lambda: engine.num_open == 0)
    assert bench.demo.groups["demo-1a2b3c4d-0"].in_flight == 0


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


def speaks(token_seconds: float, num_tokens: int):
    """A stream of so many tokens at an even pace."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(num_tokens):
            await response.write(chunk(" x", number))
            await asyncio.sleep(token_seconds)
        await response.write(chunk("", num_tokens, "stop") + DONE)
        return response

    return script


async def drain_by_engine(bench, engine, routing) -> None:
    engine.load["draining"] = True


async def drain_by_operator(bench, engine, routing) -> None:
    first, *others = routing.groups
    groups = (replace(first, state="Draining"), *others)
    bench.router.apply([replace(routing, groups=groups, generation=2)])


async def get_stuck(bench, engine, routing) -> None:
    engine.load["ready"] = False


@pytest.fixture
async def leaving(play, make_bench, make_routing, make_routed):
    """A slow stream on the first of two groups, and what makes that group a place to leave."""

    async def begin(drain_timeout_seconds: float, max_tokens: int) -> tuple:
        slow = await play(usual=speaks(0.02, max_tokens - 1))
        other = await play(usual=says(chunk("!", 99, "stop"), DONE))
        other.load["running"] = 1
        routing = make_routing(
            make_routed(slow.address, "demo-old-0"),
            make_routed(other.address, "demo-new-0"),
            drain_timeout_seconds=drain_timeout_seconds,
        )
        bench = await make_bench(routing)
        await bench.admitted(2)
        stream = bench.chat(stream=True, max_tokens=max_tokens)
        response = await stream.__aenter__()
        for _ in range(5):
            await response.content.readuntil(b"\n\n")
        return bench, slow, other, routing, response

    return begin


@pytest.mark.parametrize("leave", [drain_by_engine, drain_by_operator, get_stuck])
async def test_a_stream_moves_before_its_group_goes(leaving, leave):
    """Two thousand tokens take forty seconds; the drain would cut them after eleven."""
    bench, slow, other, routing, response = await leaving(11, 2000)
    await leave(bench, slow, routing)
    text = (await response.read()).decode()
    assert text.endswith("data: [DONE]\n\n")
    assert len(other.bodies) == 1
    moved = other.bodies[0]["openinference"]["resume"]["token_ids"]["0"]
    assert moved == list(range(len(moved)))
    assert len(moved) >= 5
    assert not bench.router.services()[0].groups["demo-old-0"].is_ejected


async def test_a_stream_that_ends_before_the_drain_does_stays(leaving):
    bench, slow, other, routing, response = await leaving(60, 60)
    await drain_by_engine(bench, slow, routing)
    await bench.admitted(1)
    assert (await response.read()).endswith(DONE)
    assert other.bodies == []


async def test_a_stream_stays_where_no_other_group_has_room(leaving):
    bench, slow, other, routing, response = await leaving(5, 60)
    other.load["running"] = 9
    await bench.group_running("demo-new-0", 9)
    await drain_by_engine(bench, slow, routing)
    assert (await response.read()).endswith(DONE)
    assert other.bodies == []


async def test_a_group_that_fails_every_request_is_passed_over_while_another_answers(
    play, make_bench, make_routing, make_routed
):
    bad = await play(usual=answers(500, {"error": {"message": "no"}}))
    good = await play(usual=whole)
    routing = make_routing(make_routed(bad.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing)
    await bench.admitted(2)

    async def ask() -> int:
        async with bench.chat() as response:
            return response.status

    assert [await ask() for _ in range(8)] == [500] * 5 + [200] * 3


async def test_requests_that_fail_everywhere_leave_a_group_to_answer_them(
    play, make_bench, make_routing, make_routed
):
    engines = [await play(usual=answers(500, {"error": {"message": "no"}})) for _ in range(2)]
    groups = [make_routed(engine.address, f"g{n}") for n, engine in enumerate(engines)]
    bench = await make_bench(make_routing(*groups))
    await bench.admitted(2)
    for _ in range(20):
        async with bench.chat() as response:
            assert response.status == 500
        assert any(group.admitted for group in bench.demo.groups.values())


async def test_streams_that_fail_inside_an_engine_count_as_its_errors(
    play, make_bench, make_routing, make_routed, caplog
):
    caplog.set_level("INFO", logger="access")
    failure = {"error": {"message": "the engine failed", "type": "server_error"}}
    failing = says(chunk("Hi", 5), b"data: " + json.dumps(failure).encode() + b"\n\n")
    bad, good = await play(usual=failing), await play(usual=COMPLETE)
    routing = make_routing(
        make_routed(bad.address, "demo-1a2b3c4d-0"), make_routed(good.address, "demo-1a2b3c4d-1")
    )
    bench = await make_bench(routing)
    await bench.admitted(2)

    async def is_answered() -> bool:
        async with bench.chat(stream=True) as response:
            assert response.status == 200
            return b"server_error" not in await response.read()

    assert [await is_answered() for _ in range(8)] == [False] * 5 + [True] * 3
    codes = [record.code for record in caplog.records if record.name == "access"]
    assert codes == [500] * 5 + [200] * 3
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        counted = re.findall(
            r'attempts_total{.*outcome="(\w+)".*} ([1-9].*)', await response.text()
        )
    assert sorted(counted) == [("failed", "5.0"), ("ok", "3.0")]


MUTE = {"no answer": stall, "no event": says(then=stall)}


@pytest.mark.parametrize("mute", MUTE.values(), ids=MUTE.keys())
async def test_a_stream_that_never_begins_is_asked_elsewhere_and_its_group_ejected(
    play, make_bench, make_routing, make_routed, mute
):
    silent, good = await play(usual=mute), await play(usual=COMPLETE)
    good.load["running"] = 1
    routing = make_routing(make_routed(silent.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing, first_token_timeout_seconds=0.3)
    await bench.admitted(2)
    async with bench.chat(stream=True) as response:
        assert (await response.read()).endswith(DONE)
    assert len(good.bodies) == 1
    assert not bench.demo.groups["g0"].admitted


@pytest.mark.parametrize("path", ["/v1/embeddings", "/tokenize", "/detokenize"])
async def test_computed_answers_are_balanced_and_retried_but_not_seeded(
    play, make_bench, make_routing, make_routed, path
):
    async def echo(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "asked": await request.json()})

    bad, good = await play(scripts=[cut_before_the_status]), await play(usual=echo)
    good.load["running"] = 1
    routing = make_routing(make_routed(bad.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing)
    await bench.admitted(2)
    asked = {"model": "smollm2", "prompt": "hello"}
    async with bench.client.post(bench.url + path, json=asked) as response:
        assert await response.json() == {"path": path, "asked": asked}


def test_every_path_that_an_engine_answers_passes():
    paths = {path for method, path, _ in ROUTES if method == "POST"}
    assert {"/v1/chat/completions", "/tokenize"} <= paths <= GENERATING | PASSED_ON


async def test_a_deadline_ends_the_wait_and_nothing_else(
    play, make_bench, make_routing, make_routed
):
    headers = {"x-openinference-timeout-seconds": "0.2"}
    empty = await make_bench(make_routing())
    async with empty.chat(headers=headers) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "deadline"
    engine = await play(usual=speaks(0.1, 5))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True, headers=headers) as response:
        assert (await response.read()).endswith(DONE)


async def test_a_cut_stream_is_not_given_up_for_a_deadline_that_has_passed(
    play, make_bench, make_routing, make_routed
):
    engine = await play(scripts=[says(chunk("Hi", 5), then=cut)], usual=COMPLETE)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    headers = {"x-openinference-timeout-seconds": "0.05"}
    async with bench.chat(stream=True, headers=headers) as response:
        text = await response.read()
    assert b": waiting" in text, "it had to wait for its only replica longer than the deadline"
    assert text.endswith(DONE)


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
async def test_a_deadline_that_is_no_time_is_refused(make_bench, make_routing, seconds):
    bench = await make_bench(make_routing())
    async with bench.chat(headers={"x-openinference-timeout-seconds": seconds}) as response:
        assert response.status == 400
        assert seconds in (await response.json())["error"]["message"]


async def test_a_body_that_trickles_in_is_refused(make_bench, make_routing):
    bench = await make_bench(make_routing(), body_timeout_seconds=0.2)

    async def trickle():
        yield b"{"
        await asyncio.sleep(60)

    async with bench.client.post(f"{bench.url}/v1/completions", data=trickle()) as response:
        assert response.status == 408
        assert "did not arrive" in (await response.json())["error"]["message"]


async def test_headers_that_trickle_in_lose_their_connection(make_bench, make_routing, monkeypatch):
    monkeypatch.setattr("openinference_router.door.IDLE_SECONDS", 0.3)
    bench = await make_bench(make_routing())
    reader, writer = await asyncio.open_connection("127.0.0.1", int(bench.url.rsplit(":", 1)[1]))
    for part in (b"POST /v1/comp", b"letions HTTP/1.1"):
        writer.write(part)
        await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
