"""Running ahead of the host changes no token, whatever happens to the requests meanwhile."""

from itertools import count

import pytest
import torch
from msgspec.structs import replace
from openinference_engine.blocks import BlockPool
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decoder import Decoder
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Scheduler

from benchmarks.shapes import random_llama
from tests.gpu.random_model import changed

# As small as kernels take: how many tokens there are matters here, not how each is computed.
SMALL = changed(vocab_size=320, hidden_size=128, intermediate_size=128, num_heads=2)
SEATS, NUM_BLOCKS, PAGES = 4, 24, 5


@pytest.fixture(scope="module")
def weights(place):
    return random_llama(SMALL, PAGES * 16, place.device)


@pytest.fixture
def new_runner(place, weights):
    def build(**switches):
        cache = KVCache(SMALL, NUM_BLOCKS, place.device)
        for layer in (*cache.keys, *cache.values):
            layer.fill_(torch.nan)  # what no token wrote may hold anything
        return CudaRunner(place.ops, Decoder(place.ops, weights, SMALL, cache, PAGES), **switches)

    return build


class CountingLaunches:
    """Counts the steps that were launched with rows from the host: those that nobody foresaw."""

    def __init__(self, runner):
        self.count = 0
        self._launch = runner._launches.launch
        runner._launches.launch = self

    def __call__(self, rows):
        self.count += 1
        return self._launch(rows)


def params(max_tokens=20, **fields):
    return SamplingParams(**({"seed": 1, "max_tokens": max_tokens, "temperature": 0} | fields))


def run(runner, arrivals, num_blocks=NUM_BLOCKS, aborts=None):
    """Outputs by request; `arrivals`, `aborts`: step → requests that come, ids that go."""
    list(drawn_by(runner, arrivals, num_blocks, aborts))
    requests = [request for step in arrivals.values() for request in step]
    return {request.id: request.token_ids[request.num_prompt :] for request in requests}


def drawn_by(runner, arrivals, num_blocks=NUM_BLOCKS, aborts=None):
    """Every token, as the scheduler hands it on."""
    scheduler = Scheduler(BlockPool(num_blocks, 16), SEATS, looks_ahead=True)
    for step in count():
        for request in arrivals.get(step, []):
            scheduler.add(request)
        for request_id in (aborts or {}).get(step, []):
            scheduler.abort(request_id)
        if step > max(arrivals) and not (scheduler.num_running or scheduler.num_waiting):
            break
        planned = scheduler.schedule(64)
        if planned.chunks:
            yield from scheduler.commit(planned, runner.run(planned))
        scheduler.check_integrity()


def four_requests():
    random = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 320, (n,), generator=random).tolist() for n in (5, 14, 30, 9)]
    return [Request(str(index), prompt, params(14 + index)) for index, prompt in enumerate(prompts)]


SCENARIOS = {
    "together": lambda: {"arrivals": {0: four_requests()}},
    "one after another": lambda: {
        "arrivals": {4 * index: [request] for index, request in enumerate(four_requests())}
    },
    "too few blocks": lambda: {"arrivals": {0: four_requests()}, "num_blocks": 7},
    "two aborted": lambda: {"arrivals": {0: four_requests()}, "aborts": {6: ["1"], 11: ["2"]}},
    "one draws by chance": lambda: {
        "arrivals": {
            0: four_requests(),
            9: [Request("chance", [1, 2, 3], params(5, temperature=1.0))],
        }
    },
    "one asks for logprobs": lambda: {
        "arrivals": {0: [*four_requests()[:2], Request("rated", [4, 5], params(8, num_logprobs=2))]}
    },
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_running_ahead_changes_no_token(new_runner, name):
    expected = run(new_runner(runs_ahead=False), **SCENARIOS[name]())
    assert run(new_runner(), **SCENARIOS[name]()) == expected


def test_steady_decoding_is_launched_from_the_device_alone(new_runner):
    runner = new_runner()
    launches = CountingLaunches(runner)
    outputs = run(runner, {0: [Request("0", [1, 2, 3], params(24))]})
    assert len(outputs["0"]) == 24
    assert launches.count == 2  # the prompt, and the first step that decodes


PENALISED = {"temperature": 0.8, "top_p": 0.9, "presence_penalty": 0.4, "frequency_penalty": 0.2}


def mixed_requests():
    """Four that draw by different rules; the last one as often as not by a rule of the host."""
    rules = [
        {"temperature": 1.0},
        PENALISED,
        {"repetition_penalty": 1.5, "logit_bias": {7: 3.0}},
        {"temperature": 1.2, "top_k": 50, "min_tokens": 4, "stop_token_ids": frozenset([319])},
    ]
    return [
        Request(one.id, one.token_ids, params(10, **fields))
        for one, fields in zip(four_requests(), rules, strict=True)
    ]


def test_drawing_by_rules_and_rating_run_ahead_too(new_runner):
    runner = new_runner()
    launches = CountingLaunches(runner)
    rules = [{"num_logprobs": 0}, {"num_logprobs": 20, **PENALISED}, PENALISED]
    requests = [Request(str(row), [1, 2, 3], params(8, **one)) for row, one in enumerate(rules)]
    drawn = list(drawn_by(runner, {0: requests}))
    assert [one.logprobs is None for one in drawn] == 8 * [False, False, True]
    assert launches.count == 2


def test_the_device_draws_and_rates_as_the_host_would(new_runner, monkeypatch):
    """Also where requests come one by one, move to other rows and are preempted."""

    def drawn():
        arrivals = {12: [Request("greedy", [4, 5], params(4, num_logprobs=0))]}
        for index, num_logprobs in enumerate([5, None, 20, 3]):
            one = mixed_requests()[index]
            rules = replace(one.params, num_logprobs=num_logprobs)
            arrivals[3 * index] = [Request(one.id, one.token_ids, rules)]
        return list(drawn_by(new_runner(), arrivals, num_blocks=5))

    mine = drawn()
    monkeypatch.setattr("openinference_engine.rows.is_drawn_on_device", lambda draw: False)
    theirs = drawn()
    for one, other in zip(mine, theirs, strict=True):
        assert (one.request.id, one.token_id) == (other.request.id, other.token_id)
        check_same_rating(one.logprobs, other.logprobs)
    assert {one.request.id for one in mine if one.logprobs is not None} == {"0", "2", "3", "greedy"}


def check_same_rating(mine, theirs):
    """To float32: the host computes in float64."""
    assert (mine is None) == (theirs is None)
    if mine is not None:
        assert (mine.rank, mine.top_ids) == (theirs.rank, theirs.top_ids)
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert mine.top_logprobs == pytest.approx(theirs.top_logprobs, abs=1e-5)


def test_a_stop_token_ends_a_request_that_ran_ahead(new_runner):
    runner = new_runner()
    plain = run(runner, {0: [Request("0", [1, 2, 3], params(20))]})["0"]
    stopping = params(20, stop_token_ids=frozenset([plain[7]]))
    outputs = run(runner, {0: [Request("0", [1, 2, 3], stopping)]})
    assert outputs["0"] == plain[: plain.index(plain[7]) + 1]
