"""Clients that send rubbish, too much or too slowly, or go away: nobody else notices."""

import asyncio
import contextlib

import pytest
from played_engine import DONE, chunk, says, stall, whole


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
    await until(lambda: bench.demo.groups["demo-1a2b3c4d-0"].in_flight == 0)


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


async def test_a_body_that_is_not_coded_as_it_says_is_refused(make_bench, make_routing):
    """It was a failure of the router, with a traceback in its log."""
    bench = await make_bench(make_routing())
    headers = {"Content-Encoding": "gzip"}
    url = f"{bench.url}/v1/completions"
    async with bench.client.post(url, data=b"{}", headers=headers) as response:
        assert response.status == 400
        assert "check Content-Encoding" in (await response.json())["error"]["message"]


async def test_a_host_that_disagrees_with_the_model_is_a_404_that_names_both(
    make_bench, make_routing
):
    bench = await make_bench(make_routing(), make_routing(service="other", model="big"))
    async with bench.chat(headers={"Host": "other.team-a.svc"}) as response:
        assert response.status == 404
        message = (await response.json())["error"]["message"]
    assert "smollm2" in message
    assert "other" in message


async def test_oversized_headers_are_refused(make_bench, make_routing):
    bench = await make_bench(make_routing())
    async with bench.chat(headers={"X-Big": "x" * 20_000}) as response:
        assert response.status == 400
    many = {f"X-{number}": "x" for number in range(500)}
    async with bench.chat(headers=many) as response:
        assert response.status == 400


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
    await until(lambda: bench.demo.groups["demo-1a2b3c4d-0"].in_flight == 0)


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

    async def trickle() -> None:
        for byte in b"POST /v1/completions HTTP/1.1\r\nX-Long: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(60):  # the headers take a hundred seconds
        with contextlib.suppress(ConnectionResetError):  # a byte may come after the close
            assert await reader.read() == b""
    trickling.cancel()
    writer.close()
