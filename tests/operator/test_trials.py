"""Evidence about a revision on trial, from an engine and a Prometheus at the border."""

import asyncio
from contextlib import asynccontextmanager
from decimal import Decimal

import aiohttp
import pytest
from aiohttp import web
from openinference_operator import names
from openinference_operator.rollout_spec import GoldenPrompt, Limit
from openinference_operator.signals import golden as golden_module
from openinference_operator.signals.analysis import ATTEMPTS, analyse
from openinference_operator.signals.golden import GoldenChecks
from openinference_operator.signals.prometheus import Prometheus
from openinference_operator.spec import parse

PROMPTS = (GoldenPrompt("2+2?", "4", 8),)
GROUP = "demo-1a2b3c4d-0"


@asynccontextmanager
async def served(method, path, handler):
    app = web.Application()
    app.router.add_route(method, path, handler)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class Engine:
    """Answers golden prompts with what a test says; a number is a status without an answer."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def answer(self, request):
        self.asked.append((await request.json(), request.headers.get(names.TOKEN_HEADER)))
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, int):
            return web.json_response({"error": {"message": "no"}}, status=said)
        return web.json_response({"choices": [{"message": {"content": said}}]})


@pytest.fixture
def ask(monkeypatch, raw_service):
    """Ask one group until its result is known."""
    monkeypatch.setattr(golden_module, "PAUSE_SECONDS", 0.01)

    async def token_of(namespace):
        return f"token of {namespace}"

    async def run(engine):
        async with (
            served("POST", "/v1/chat/completions", engine.answer) as url,
            aiohttp.ClientSession() as session,
        ):
            monkeypatch.setattr(names, "group_address", lambda *_: url)
            checks, known = GoldenChecks(session, token_of), asyncio.Event()
            arguments = ("key", parse(raw_service()), PROMPTS, {GROUP: "uid"}, known.set)
            assert checks.results(*arguments) == {}
            await asyncio.wait_for(known.wait(), 30)
            results = checks.results(*arguments)
            await checks.close()
            return results

    return run


async def test_a_right_answer_passes(ask):
    engine = Engine("The answer is 4.")
    assert await ask(engine) == {GROUP: ""}
    body, token = engine.asked[0]
    assert (body["temperature"], body["max_tokens"], body["model"]) == (0, 8, "demo")
    assert token == "token of team-a"  # noqa: S105


async def test_a_wrong_answer_is_told_with_what_was_expected(ask):
    results = await ask(Engine("5"))
    assert results == {GROUP: f"{GROUP} answered golden prompt '2+2?' with '5', expected '4' in it"}


async def test_an_engine_that_does_not_answer_is_asked_again(ask):
    engine = Engine(503, 500, "4")
    assert await ask(engine) == {GROUP: ""}
    assert len(engine.asked) == 3


async def test_a_refusal_fails_whatever_is_expected(ask):
    """400 contains the 4 that the prompt expects."""
    results = await ask(Engine(400))
    assert "HTTP 400" in results[GROUP]


def answering(series):
    """A Prometheus that answers each expression by the metric in it."""

    async def query(request):
        expression = request.query["query"]
        found = next((value for name, value in series.items() if name in expression), [])
        result = [{"metric": labels, "value": [0, str(value)]} for labels, value in found]
        data = {"resultType": "vector", "result": result}
        return web.json_response({"status": "success", "data": data})

    return query


async def verdict(series):
    limits = (Limit("ErrorRate", Decimal("0.1"), None), Limit("TTFT", None, Decimal(2)))
    async with (
        served("GET", "/api/v1/query", answering(series)) as url,
        aiohttp.ClientSession() as session,
    ):
        prometheus = Prometheus(session, url)
        return await analyse(prometheus, ("team-a", "demo"), ("new", "old"), limits, 60)


def measured(new_failed=0, new_seconds=1.0):
    return {
        ATTEMPTS: [
            ({"revision": "old", "outcome": "ok"}, 90),
            ({"revision": "new", "outcome": "ok"}, 20),
            ({"revision": "new", "outcome": "failed"}, new_failed),
        ],
        "_count": [({"revision": "old"}, 90), ({"revision": "new"}, 20)],
        "_bucket": [({"revision": "old"}, 1.0), ({"revision": "new"}, new_seconds)],
    }


async def test_good_figures_are_seen():
    told = await verdict(measured())
    assert (told.failed, told.missing) == ("", "")
    assert told.seen == "ErrorRate 0 of 20 requests; TTFT 1 of 20 requests"


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        (measured(new_failed=5), "ErrorRate of revision new is 0.2, above max = 0.1"),
        (measured(new_seconds=2.5), "TTFT of revision new is 2.5, above maxRatio = 2 of 1"),
    ],
)
async def test_bad_figures_fail(figures, words):
    assert (await verdict(figures)).failed == words


async def test_a_prometheus_that_knows_nothing_fails_nobody():
    told = await verdict({})
    assert told.failed == ""
    assert "0 of 10 requests" in told.missing


async def test_a_prometheus_that_is_away_fails_nobody(unused_tcp_port):
    limits = (Limit("ErrorRate", Decimal("0.1"), None),)
    async with aiohttp.ClientSession() as session:
        prometheus = Prometheus(session, f"http://127.0.0.1:{unused_tcp_port}")
        told = await analyse(prometheus, ("team-a", "demo"), ("new", "old"), limits, 60)
    assert told.failed == ""
    assert "does not answer" in told.missing
