"""What the operator judges a canary by: attempts and first tokens, by revision."""

import hashlib

import pytest
from aiohttp import web
from openinference_router.errors import AttemptFailed
from openinference_router.keys import Key
from openinference_router.metrics import Metrics
from openinference_router.trace import CLIENT_GONE, start_trace
from prometheus_client import generate_latest

OLD, NEW = "demo-1a2b3c4d-0", "demo-5e6f7a8b-0"


@pytest.fixture
def metrics():
    return Metrics("team-a", list)


def ended(metrics, code, groups, failures=(), first_token_seconds=None):
    trace = start_trace("/v1/chat/completions", {})
    trace.service, trace.code, trace.groups = "demo", code, list(groups)
    trace.first_token_seconds = first_token_seconds
    for reason in failures:
        trace.failed(AttemptFailed(reason))
    metrics.ended(trace)


def attempts(metrics, revision, outcome):
    labels = {
        "inference_namespace": "team-a",
        "inference_service": "demo",
        "revision": revision,
        "outcome": outcome,
    }
    return metrics.registry.get_sample_value("openinference_router_attempts_total", labels)


ENDINGS = {
    # name: (code, groups, failures) -> attempts that were (ok, failed) of the old, of the new one
    "answered": (200, [NEW], [], (None, None, 1, None)),
    "a client's mistake says nothing bad": (400, [NEW], [], (None, None, 1, None)),
    "cut and resumed elsewhere": (200, [NEW, OLD], ["cut"], (1, None, None, 1)),
    "cut and given up": (503, [OLD, NEW], ["cut", "cut"], (None, 1, None, 1)),
    "an error of the engine": (500, [NEW], [], (None, None, None, 1)),
    "left by its client": (CLIENT_GONE, [OLD, NEW], ["cut"], (None, 1, None, None)),
    "refused before any attempt": (429, [], [], (None, None, None, None)),
}


@pytest.mark.parametrize(
    ("code", "groups", "failures", "expected"), ENDINGS.values(), ids=ENDINGS.keys()
)
def test_each_attempt_counts_for_its_revision(metrics, code, groups, failures, expected):
    ended(metrics, code, groups, failures)
    counted = [
        attempts(metrics, revision, outcome)
        for revision in ("1a2b3c4d", "5e6f7a8b")
        for outcome in ("ok", "failed")
    ]
    assert tuple(counted) == expected


def test_the_first_token_is_timed_for_the_revision_that_answered(metrics):
    ended(metrics, 200, [OLD, NEW], ["cut"], first_token_seconds=0.2)
    text = generate_latest(metrics.registry).decode()
    assert 'first_token_seconds_count{inference_namespace="team-a"' in text
    assert 'revision="5e6f7a8b"} 1.0' in text


async def test_counters_of_a_revision_begin_at_zero_before_its_first_request(
    make_bench, make_routing, make_routed
):
    """Else the first failure of a new revision would be no increase to Prometheus."""
    bench = await make_bench(make_routing(make_routed("http://127.0.0.1:9")))
    text = await exposition(bench)
    assert 'openinference_router_attempts_total{inference_namespace="team-a"' in text
    assert 'outcome="failed",revision="1a2b3c4d"} 0.0' in text


async def test_what_is_gone_leaves_no_series(make_bench, make_routing, play, make_routed):
    """Counters of deleted services once stayed until the router was restarted."""
    engine = await play(usual=answer)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    bench.keys.replace({"team": Key(sha256=hashlib.sha256(b"key").hexdigest())})
    async with bench.chat(headers={"Authorization": "Bearer key"}) as response:
        assert response.status == 200
    named = ('"demo"', '"1a2b3c4d"', '"team"')
    before = await exposition(bench)
    assert [name for name in named if name not in before] == []
    bench.router.apply([])
    bench.keys.replace({})
    after = await exposition(bench)
    assert [name for name in named if name in after] == []


async def answer(_: web.Request) -> web.Response:
    return web.json_response({"usage": {"completion_tokens": 3, "total_tokens": 12}})


async def exposition(bench) -> str:
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        return await response.text()
