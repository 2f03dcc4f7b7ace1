"""In the mode `deterministic` a request gets the same bits alone, among others and in chunks."""

import pytest
import torch
from openinference_engine.blocks import BlockPool
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decoder import Decoder
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Scheduler

from benchmarks.shapes import SHAPES, random_llama

NUM_BLOCKS, PAGES = 64, 2
LENGTHS = (14, 15, 13)  # three pages, and soon more than four


@pytest.fixture(scope="module", params=["tiny", "tiny-experts"])
def shape(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module", params=["bfloat16", "fp8", "int4"])
def weights(request, place, shape):
    if place.device.type == "cpu" and request.param != "bfloat16":
        pytest.skip("the orders of sums of all formats are emulated alike")
    if place.device.type == "cpu" and shape.experts is not None:
        pytest.skip("test_expert_ops.py shows it of the emulated ops, in less time")
    return random_llama(shape, PAGES * 16, place.device, request.param)


@pytest.fixture
def new_runner(place, shape, weights):
    def build(is_deterministic=True):
        cache = KVCache(shape, NUM_BLOCKS, place.device)
        return CudaRunner(
            place.ops, Decoder(place.ops, weights, shape, cache, PAGES, is_deterministic)
        )

    return build


def requests(place):
    """More than two slices of rows on a GPU; the emulation is slow. Each token tells its logits."""
    lengths = LENGTHS * (8 if place.device.type == "cuda" else 1)
    random = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, 320, (length,), generator=random).tolist() for length in lengths]
    return [
        Request(str(i), prompt, SamplingParams(seed=i, max_tokens=4, num_logprobs=3))
        for i, prompt in enumerate(prompts)
    ]


def results(runner, requests, num_blocks=NUM_BLOCKS, token_budget=200):
    """(token, log-probabilities) of all draws by request, and how many preemptions there were."""
    scheduler = Scheduler(BlockPool(num_blocks, 16), 64, looks_ahead=True)
    drawn = {request.id: [] for request in requests}
    for request in requests:
        scheduler.add(request)
    while scheduler.num_running or scheduler.num_waiting:
        step = scheduler.schedule(token_budget)
        for one in scheduler.commit(step, runner.run(step)):
            drawn[one.request.id].append((one.token_id, one.logprobs))
    return drawn, scheduler.num_preemptions


def test_bits_depend_on_the_request_alone(place, new_runner):
    runner, alone = new_runner(), {}
    for request in requests(place):
        alone |= results(runner, [request])[0]
    together, _ = results(new_runner(), requests(place))
    few_blocks, few_tokens = 4 * len(alone) // len(LENGTHS), 10 * len(alone)
    preempted, num_preemptions = results(new_runner(), requests(place), few_blocks, few_tokens)
    assert num_preemptions > 0
    assert together == alone
    assert preempted == alone


@pytest.mark.gpu
def test_without_the_mode_bits_depend_on_the_batch(place, new_runner):
    """Else the test above could not fail."""
    if place.device.type != "cuda":
        pytest.skip("the emulation has one kernel for any number of rows")
    runner, alone = new_runner(is_deterministic=False), {}
    for request in requests(place):
        alone |= results(runner, [request])[0]
    assert results(runner, requests(place))[0] != alone
