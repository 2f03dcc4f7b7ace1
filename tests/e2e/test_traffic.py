"""The traffic driver counts each way of failing right, over real connections."""

import asyncio
import sys

import pytest

from e2e.asks import Ask, long_streams, mixed_asks
from e2e.traffic import Traffic, TrafficError, served_model

STREAM = Ask("Count.", max_tokens=3)
WHOLE = Ask("Count.", max_tokens=3, api="completions", is_streamed=False)


@pytest.fixture
async def traffic(service):
    async with Traffic(service.url, "scripted") as traffic:
        await traffic.learn([STREAM, WHOLE, *long_streams(3)])
        yield traffic


@pytest.fixture
def send(service, traffic):
    """Sends one request to a service that misbehaves, with little patience where it must end."""

    async def send(behaviour, ask):
        service.behaviour = behaviour
        patience = 0.5 if behaviour in ("hang", "hold") else 60.0
        references = traffic.references
        async with Traffic(service.url, "scripted", references, patience) as impatient:
            result = await impatient.send(ask)
        return impatient.report, result.verdict.cause

    return send


@pytest.mark.parametrize("ask", [STREAM, WHOLE])
async def test_a_right_answer_is_complete(traffic, ask):
    await traffic.send(ask)
    assert traffic.report.counts() == "complete 1, refused 0, lost 0"


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        ("cut", "cut"),
        ("hang", "hung"),
        ("hold", "hung"),
        ("no finish", "cut"),
        ("no usage", "cut"),
        ("no done", "cut"),
        ("error", "error"),
        ("rubbish", "error"),
        ("500", "error"),
        ("404", "error"),
        ("wrong text", "wrong text"),
        ("wrong usage", "wrong usage"),
    ],
)
async def test_a_failed_stream_is_lost(send, behaviour, cause):
    report, seen = await send(behaviour, STREAM)
    assert (report.lost, seen) == (1, cause)


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        ("hang", "hung"),
        ("500", "error"),
        ("wrong text", "wrong text"),
        ("wrong usage", "wrong usage"),
    ],
)
async def test_a_failed_request_is_lost(send, behaviour, cause):
    report, seen = await send(behaviour, WHOLE)
    assert (report.lost, seen) == (1, cause)


@pytest.mark.parametrize("behaviour", ["429", "503"])
@pytest.mark.parametrize("ask", [STREAM, WHOLE])
async def test_a_service_that_says_no_refuses(send, behaviour, ask):
    report, seen = await send(behaviour, ask)
    assert (report.refused, seen) == (1, behaviour)


async def test_a_service_that_cannot_be_reached_refuses(service, traffic, unused_tcp_port):
    async with Traffic(
        f"http://127.0.0.1:{unused_tcp_port}", "scripted", traffic.references
    ) as elsewhere:
        await elsewhere.send(STREAM)
    assert elsewhere.report.causes == {"unreachable": 1}


async def test_it_knows_the_moment_when_twenty_streams_are_open(service, traffic):
    service.behaviour = "hold"
    traffic.keep(20, long_streams(3))
    await traffic.until_streaming(20)
    assert traffic.streaming == 20
    traffic.stop()
    service.release.set()
    await traffic.until_results(20)
    assert traffic.streaming == 0


async def test_it_says_how_far_it_came_when_streams_do_not_open(service, traffic):
    service.behaviour = "429"
    traffic.keep(2, [STREAM])
    await traffic.until_results(1)
    with pytest.raises(TrafficError, match=r"0 streams are open.*refused [1-9]"):
        await traffic.until_streaming(2, timeout_seconds=0.2)


async def test_it_knows_the_group_that_serves_most_streams(service, traffic):
    service.behaviour = "hold"
    traffic.keep(2, long_streams(3))
    assert await traffic.busiest_group() == "demo-1a2b3c4d-0"
    service.release.set()


async def test_it_says_so_when_no_group_serves_a_stream(service, traffic):
    """An engine that is asked directly names none."""
    service.behaviour, service.headers = "hold", {}
    traffic.keep(2, long_streams(3))
    await traffic.until_streaming(2)
    with pytest.raises(TrafficError, match="2 streams are open"):
        await traffic.busiest_group(timeout_seconds=0.1)
    service.release.set()


async def test_leaving_the_block_waits_for_open_requests(service):
    async with Traffic(service.url, "scripted") as traffic:
        await traffic.learn([STREAM])
        service.behaviour = "hold"
        traffic.keep(3, [STREAM])
        await traffic.until_streaming(3)
        service.release.set()
    assert traffic.report.counts() == "complete 3, refused 0, lost 0"


async def test_slow_answers_do_not_slow_the_arrivals(service):
    """Open loop: with a closed one, a service that hangs would look like one without load."""
    async with Traffic(service.url, "scripted") as traffic:
        await traffic.learn([STREAM])
        service.behaviour = "hold"
        traffic.arrive(100.0, [STREAM])
        await traffic.until_streaming(15)
        service.release.set()
    assert traffic.report.lost == 0


async def test_a_failure_inside_the_block_is_not_wrapped(service):
    async def fail_under_traffic():
        async with Traffic(service.url, "scripted") as traffic:
            await traffic.learn([STREAM])
            service.behaviour = "hold"
            traffic.keep(3, [STREAM])
            await traffic.until_streaming(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_under_traffic()


async def test_no_reference_is_taken_from_a_service_in_trouble(service):
    service.behaviour = "500"
    async with Traffic(service.url, "scripted") as traffic:
        with pytest.raises(TrafficError, match="no reference answer"):
            await traffic.learn([STREAM])


async def test_a_reference_is_asked_for_once(service, traffic):
    asked = len(service.bodies)
    await traffic.learn([STREAM, WHOLE])
    assert len(service.bodies) == asked


async def test_the_report_names_who_answered(traffic):
    await traffic.send(STREAM)
    assert traffic.report.groups == {"demo-1a2b3c4d-0": 1}


async def test_the_model_is_the_first_that_is_served(service):
    assert await served_model(service.url) == "scripted"


def test_mixed_asks_are_the_same_for_the_same_seed():
    assert mixed_asks(8, seed=3) == mixed_asks(8, seed=3)


@pytest.mark.parametrize(("behaviour", "exit_code"), [("well", 0), ("cut", 1), ("429", 0)])
async def test_the_command_fails_when_requests_are_lost(service, behaviour, exit_code):
    service.behaviour, service.good_answers_first = behaviour, len(long_streams(1))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "e2e.traffic", "--url", service.url, "--model", "scripted"),
        *("--rate", "0", "--streams", "2", "--seconds", "0.3"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == exit_code, output.decode()
