"""A stream that is cut goes on elsewhere, and its client sees one stream."""

import asyncio
import json
import time

import pytest
from aiohttp import web
from played_engine import COMPLETE, DONE, chunk, cut, says, stall

UNAVAILABLE = {"error": {"message": "gone", "type": "service_unavailable_error"}}


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
    bench = await make_bench(routing, stall_timeout_seconds=3)
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
    assert resume == begun | {"token_ids": {"0": [5]}}
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


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-openinference-timeout-seconds": "0.05"}],
    ids=["patient", "a deadline that has passed"],
)
async def test_a_cut_stream_waits_for_its_only_replica(
    play, make_bench, make_routing, make_routed, headers
):
    """Which says nothing until the client has heard that it waits, longer than any deadline."""

    async def cut_and_fall_silent(request: web.Request) -> None:
        engine.is_silent = True
        await cut(request)

    script = says(chunk("Hi", 5), then=cut_and_fall_silent)
    engine = await play(scripts=[script], usual=says(chunk("!", 6, "stop"), DONE))
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=True, headers=headers) as response:
        await response.content.readuntil(b": waiting")
        engine.is_silent = False
        assert (await response.read()).endswith(DONE)


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


MUTE = {"no answer": stall, "no event": says(then=stall)}


@pytest.mark.parametrize("mute", MUTE.values(), ids=MUTE.keys())
async def test_a_stream_that_never_begins_is_asked_elsewhere_and_its_group_ejected(
    play, make_bench, make_routing, make_routed, mute
):
    """The clock is a minute and more ahead until then, so that its pause lasts as long."""
    silent, good = await play(usual=mute), await play(usual=COMPLETE)
    good.load["running"] = 1
    routing = make_routing(make_routed(silent.address, "g0"), make_routed(good.address, "g1"))
    bench = await make_bench(routing, first_token_timeout_seconds=60)
    await bench.admitted(2)
    [service] = bench.router.services()
    group = service.groups["g0"]
    service._clock = lambda: time.monotonic() + 100 * (not group.is_ejected)
    async with bench.chat(stream=True) as response:
        assert (await response.read()).endswith(DONE)
    assert len(good.bodies) == 1
    assert not bench.demo.groups["g0"].admitted
