"""An engine fails before its answer begins: the request is made again elsewhere, within reason."""

import pytest
from aiohttp import web
from played_engine import (
    answers,
    cut_before_the_status,
    cut_inside_the_body,
    cut_inside_the_headers,
    not_http,
    says,
    stall,
    whole,
)

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


async def test_a_stream_on_which_every_engine_gets_stuck_is_given_up(
    play, make_bench, make_routing, make_routed
):
    """It went on from one to the next for ever, since moving away costs nothing."""

    async def get_stuck(request: web.Request) -> None:
        engine = next(each for each in engines if each.address.endswith(f":{request.url.port}"))
        engine.load["ready"] = False
        await stall(request)

    engines = [await play(usual=says(then=get_stuck)) for _ in range(6)]
    groups = [make_routed(engine.address, f"g{n}") for n, engine in enumerate(engines)]
    bench = await make_bench(make_routing(*groups))
    await bench.admitted(6)
    async with bench.chat(stream=True) as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "gave_up"
    assert sum(len(engine.bodies) for engine in engines) == 5


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
