"""A group that answers, and answers with errors: it is passed over while others do better."""

import json
import re

from played_engine import COMPLETE, answers, chunk, says, whole


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

    assert [await ask() for _ in range(5)] == [500] * 5
    bad.is_silent = True  # its next report might end its second of pause
    assert [await ask() for _ in range(3)] == [200] * 3


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

    assert [await is_answered() for _ in range(5)] == [False] * 5
    bad.is_silent = True  # its next report might end its second of pause
    assert [await is_answered() for _ in range(3)] == [True] * 3
    codes = [record.code for record in caplog.records if record.name == "access"]
    assert codes == [500] * 5 + [200] * 3
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        counted = re.findall(
            r'attempts_total{.*outcome="(\w+)".*} ([1-9].*)', await response.text()
        )
    assert sorted(counted) == [("failed", "5.0"), ("ok", "3.0")]
