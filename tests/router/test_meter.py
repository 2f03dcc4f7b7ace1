"""What the router measures of answers: tokens, time to the first, time per token."""

import asyncio
import json

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from openinference_router.meter import TOKEN_SECONDS, Buckets, Meter, Stopwatch, quantile

durations = st.floats(min_value=0, max_value=2 * TOKEN_SECONDS[-1])


def bucket_of(seconds: float) -> tuple[float, float]:
    """Between which bounds a duration lies; beyond the last bound there is only that."""
    edges = (0.0, *TOKEN_SECONDS)
    above = next((upper for upper in TOKEN_SECONDS if seconds <= upper), None)
    if above is None:
        return TOKEN_SECONDS[-1], TOKEN_SECONDS[-1]
    return edges[edges.index(above) - 1], above


@given(st.lists(durations, min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_quantile_is_in_the_bucket_of_the_true_one(observed, share):
    buckets = Buckets(TOKEN_SECONDS)
    for seconds in observed:
        buckets.observe(seconds)
    rank = next(n for n in range(1, len(observed) + 1) if n >= share * len(observed))
    lower, upper = bucket_of(sorted(observed)[rank - 1])

    assert lower <= quantile(share, buckets.bounds, buckets.counts) <= upper


def test_quantile_of_nothing_is_nothing():
    assert quantile(0.5, TOKEN_SECONDS, Buckets(TOKEN_SECONDS).counts) is None


def test_cumulative_counts_end_with_all():
    buckets = Buckets((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7.0):
        buckets.observe(seconds)

    assert buckets.cumulative() == [("0.1", 2.0), ("1.0", 3.0), ("+Inf", 4.0)]


def test_tokens_that_come_together_count_as_first_ones():
    """After a resume several arrive at once; the time per token is that of the later ones."""
    meter = Meter()
    with Stopwatch(meter, arrived_at=10.0) as stopwatch:
        stopwatch.streamed(3, now=12.0)
        stopwatch.streamed(3, now=12.5)
        stopwatch.streamed(7, now=13.0)

    assert meter.num_tokens == 7
    assert meter.first_token.sum_seconds == 2.0
    assert meter.per_token.sum_seconds == 0.25


def test_an_answer_without_tokens_observes_nothing():
    meter = Meter()
    with Stopwatch(meter, arrived_at=0.0) as stopwatch:
        stopwatch.streamed(0, now=1.0)

    assert sum(meter.first_token.counts) == sum(meter.per_token.counts) == 0


@pytest.mark.parametrize("is_stream", [True, False])
async def test_tokens_of_answers_reach_the_metrics(
    play, make_bench, make_routing, make_routed, is_stream
):
    async def answer(request):
        if not is_stream:
            return web.json_response({"usage": {"completion_tokens": 6}})
        return await _stream(request, [[1], [2, 3], [4], [5], [6]])

    engine = await play(usual=answer)
    bench = await make_bench(make_routing(make_routed(engine.address)))
    await bench.admitted()
    async with bench.chat(stream=is_stream) as response:
        await response.read()
    async with bench.client.get(f"{bench.internal_url}/metrics") as response:
        text = await response.text()

    labels = 'component="router",inference_namespace="team-a",inference_service="demo"'
    prefix = "openinference_router"
    assert f"{prefix}_output_tokens_total{{{labels}}} 6.0" in text
    assert f"{prefix}_groups_admitted{{{labels}}} 1.0" in text
    num_streams = float(is_stream)
    assert f"{prefix}_time_per_output_token_seconds_count{{{labels}}} {num_streams}" in text


async def _stream(request, steps):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for ids in steps:
        chunk = {
            "id": "c",
            "created": 1,
            "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
            "openinference": {"token_ids": {"0": ids}},
        }
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await asyncio.sleep(0.01)
    await response.write(b"data: [DONE]\n\n")
    return response
