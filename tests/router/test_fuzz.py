"""Whatever bytes a client sends, the router answers with a status of its own or closes; never 500.

Requests are mutations of good ones: of their bytes, of their headers and of their JSON. A failure
names the seed, and the seed makes the request.
"""

import asyncio
import contextlib
import json
import random

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openinference_router import exchange, sse
from openinference_router.affinity import of_prompt
from openinference_router.errors import Refusal
from openinference_router.routing import RoutingTable

NUM_REQUESTS = 400
PATHS = [*sorted(exchange.GENERATING | exchange.PASSED_ON), "/v1/models", "/v1/models/x", "/", "/é"]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
READ = st.sampled_from(["model", "stream", "seed", "messages", "prompt", "n", "max_tokens"])


@given(st.binary() | st.dictionaries(READ, JSON_VALUES).map(lambda v: json.dumps(v).encode()))
def test_a_body_is_parsed_or_refused(body):
    """Any other exception would be a 500."""
    with contextlib.suppress(Refusal):
        asked = exchange.parse("/v1/chat/completions", body)
        of_prompt(asked.fields)
        assert asked.max_tokens is not None
        assert msgspec.json.decode(asked.body())["seed"] is not None


@given(st.text(), st.none() | st.text())
def test_a_host_and_a_model_mean_a_service_or_are_refused(host, model):
    with pytest.raises(Refusal) as refused:
        RoutingTable("team-a").select(host, model)
    assert refused.value.status in (400, 404)


@given(st.lists(st.sampled_from([b"data: ", b"x", b"\n", b"\r\n", b": c", b"event: e"])), st.data())
def test_events_do_not_depend_on_where_the_network_cuts(parts, data):
    stream = b"".join(parts)
    cut = data.draw(st.integers(0, len(stream)))
    if stream[cut - 1 : cut + 1] == b"\r\n":
        cut -= 1
    at_once, in_two = sse.Splitter(), sse.Splitter()
    whole = list(at_once.feed(stream))
    assert [*in_two.feed(stream[:cut]), *in_two.feed(stream[cut:])] == whole


def mutated(seed: int) -> bytes:
    """One HTTP request that was good once."""
    rng = random.Random(seed)
    fields = {"model": "smollm2", "messages": [{"role": "user", "content": "hi"}], "stream": False}
    for _ in range(rng.randrange(3)):
        name = rng.choice([*fields, "seed", "n", "openinference", "prompt"])
        fields[name] = rng.choice([None, [], {}, "", -1, 10**400, "\ud800", [[]] * 50, True, 1e308])
    body = json.dumps(fields).encode()
    headers = {
        b"Host": rng.choice([b"demo", b"demo.team-a.svc", b"[::1", b"", b"\xff"]),
        b"Content-Length": str(rng.choice([len(body), len(body) - 1, 0, -1])).encode(),
        b"Content-Type": rng.choice([b"application/json", b"text/\x00", b"multipart/form-data"]),
        b"Authorization": rng.choice([b"Bearer x", b"\xf0\x9f", b"Basic", b""]),
        b"x-request-id": rng.choice([b"ok", b"\x01", b"x" * 9000]),
        b"traceparent": rng.choice([b"00-x", b"", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-00"]),
        b"x-openinference-timeout-seconds": rng.choice([b"1", b"x", b"1e999", b"-1"]),
    }
    chosen = {name: headers[name] for name in headers if rng.random() < 0.6}
    chosen.setdefault(b"Content-Length", str(len(body)).encode())
    line = rng.choice([b"POST", b"POST", b"POST", b"GET", b"P\x00"]) + b" "
    line += rng.choice(PATHS).encode() + rng.choice([b" HTTP/1.1", b" HTTP/1.1", b" HTTP/9", b""])
    request = bytearray(b"\r\n".join([line, *map(b": ".join, chosen.items()), b"", body]))
    for _ in range(rng.choice([0, 0, 0, 1, 4])):
        request[rng.randrange(len(request))] = rng.randrange(256)
    return bytes(request)


async def status_of(port: int, request: bytes, patience_seconds: float = 1) -> int | None:
    """What the router said; None when it closed or still waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(patience_seconds):
            line = await reader.readline()
        return int(line.split()[1]) if line else None
    except (TimeoutError, ConnectionError):
        return None
    finally:
        writer.close()


async def answer(_: web.Request) -> web.Response:
    return web.json_response({"ok": True})


async def test_no_request_breaks_the_router(play, make_bench, make_routing, make_routed, caplog):
    engine = await play(usual=answer)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    port = int(bench.url.rsplit(":", 1)[1])
    places = asyncio.Semaphore(40)

    async def ask(seed: int) -> tuple[int, int | None]:
        async with places:
            return seed, await status_of(port, mutated(seed))

    answered = await asyncio.gather(*(ask(seed) for seed in range(NUM_REQUESTS)))
    assert [seed for seed, status in answered if status == 500] == []
    statuses = {status for _, status in answered}
    assert {200, 400} <= statuses, "both good and bad requests were among them"
    assert "request broke the router" not in [each.getMessage() for each in caplog.records]
    async with bench.chat() as response:
        assert response.status == 200


async def test_a_header_that_cannot_be_parsed_is_not_logged(make_bench, make_routing, caplog):
    """The HTTP library told the log why it refused: with the header, which may be a credential."""
    bench = await make_bench(make_routing())
    request = b"POST /v1/completions HTTP/1.1\r\nAuthorization: Bearer secret\x01\r\n\r\n"
    assert await status_of(int(bench.url.rsplit(":", 1)[1]), request, 60) == 400
    (record,) = [each for each in caplog.records if each.getMessage() == "request not parsed"]
    assert record.exc_info is None
    assert "secret" not in caplog.text
