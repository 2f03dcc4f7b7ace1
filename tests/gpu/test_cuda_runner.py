"""A whole small Llama through scheduler, decoder and kernels, against transformers.

The oracle computes in float32 on the same bf16 weights. The kernels round activations to bf16, so
logits agree within BOUND, and the rule for tokens is: each token drawn greedily has an oracle logit
within BOUND of the oracle's best.
"""

import pytest
import torch
from openinference_engine.blocks import BlockPool
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decoder import Decoder
from openinference_engine.errors import EngineError, StartError
from openinference_engine.kv_formats import BFLOAT16, CODED_FORMATS
from openinference_engine.llama_weights import load_llama
from openinference_engine.packings import PACKINGS
from openinference_engine.prefill import Prefill
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Scheduler
from openinference_engine.step import Chunk, Step
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import CONFIG, RandomCheckpoint, build_oracle, changed

BOUND = 0.04  # logits have a standard deviation of 1; seen: 0.017
NUM_BLOCKS, MAX_LENGTH = 24, 96


def build_runner(
    place,
    checkpoint,
    weight_format="bfloat16",
    prompt_kernels=None,
    cache_format=BFLOAT16,
    is_deterministic=False,
    **switches,
):
    config, source = checkpoint.config, Weights(checkpoint, torch.bfloat16)
    weights = load_llama(source, config, config.max_positions, place.device, weight_format)
    cache = KVCache(config, NUM_BLOCKS, place.device, cache_format)
    for layer in (*cache.keys, *cache.values):
        layer.view(torch.uint8).fill_(0xFF)  # NaN: what no token wrote may hold anything
    pages = MAX_LENGTH // 16
    decoder = Decoder(place.ops, weights, config, cache, pages, is_deterministic)
    if prompt_kernels is not None:
        attention = PromptAttention(prompt_kernels, cache, decoder.attention, pages)
        switches["prefill"] = Prefill(prompt_kernels, weights, config, cache, attention, 64)
    return CudaRunner(place.ops, decoder, **switches)


@pytest.fixture(scope="module")
def oracle():
    return build_oracle(CONFIG)


def generate(
    runner, prompts, num_tokens, num_blocks=NUM_BLOCKS, token_budget=64, window=None, **params
):
    """The output ids of each prompt, through the scheduler."""
    pool = BlockPool(num_blocks, 16)
    scheduler = Scheduler(pool, max_sequences=8, looks_ahead=True, window=window)
    sampling = SamplingParams(**({"seed": 1, "max_tokens": num_tokens, "temperature": 0} | params))
    requests = [Request(str(index), prompt, sampling) for index, prompt in enumerate(prompts)]
    list(drawn_by(runner, scheduler, requests, token_budget))
    scheduler.check_integrity()
    return [request.token_ids[request.num_prompt :] for request in requests], scheduler


def drawn_by(runner, scheduler, requests, token_budget=64):
    """Every token, as the scheduler hands it on."""
    for request in requests:
        scheduler.add(request)
    while scheduler.num_running or scheduler.num_waiting:
        step = scheduler.schedule(token_budget)
        yield from scheduler.commit(step, runner.run(step))


def check_greedy(oracle, prompt, output, bound=BOUND):
    logits = oracle(prompt + output[:-1])[len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(output)[:, None])[:, 0]
    assert (logits.max(dim=1).values - chosen).max() < bound


def prompts_of(*lengths):
    random = torch.Generator().manual_seed(3)
    return [torch.randint(0, 99, (n,), generator=random).tolist() for n in lengths]


def test_greedy_tokens_follow_the_oracle_across_page_borders(place, oracle):
    prompts = prompts_of(1, 13, 37, 5)
    outputs, _ = generate(build_runner(place, RandomCheckpoint(CONFIG)), prompts, num_tokens=6)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == 6
        check_greedy(oracle, prompt, output)


def test_chunked_prefill_and_preemption_follow_the_oracle(place, oracle):
    prompts = prompts_of(14, 15, 13)
    runner = build_runner(place, RandomCheckpoint(CONFIG))
    outputs, scheduler = generate(runner, prompts, num_tokens=6, num_blocks=4, token_budget=9)
    assert scheduler.num_preemptions > 0
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(oracle, prompt, output)


def test_prompts_of_many_rows_follow_the_oracle(place, prompt_kernels, oracle):
    runner = build_runner(place, RandomCheckpoint(CONFIG), prompt_kernels=prompt_kernels)
    prompts = prompts_of(37, 21, 40)
    outputs, _ = generate(runner, prompts, num_tokens=5)  # 58 rows, then 40 beside two that decode
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == 5
        check_greedy(oracle, prompt, output)


@pytest.mark.parametrize(
    ("name", "bound", "prefills"),
    [("int8", 2, True), ("fp8", 4, False), ("int8-int4", 8, False), ("int4", 16, True)],
)
def test_codes_of_keys_and_values_follow_the_oracle(
    place, prompt_kernels, oracle, name, bound, prefills
):
    """As closely as their bits allow: bounds are multiples of what bf16 is held to."""
    checkpoint, kernels = RandomCheckpoint(CONFIG), prompt_kernels if prefills else None
    runner = build_runner(
        place, checkpoint, prompt_kernels=kernels, cache_format=CODED_FORMATS[name]
    )
    prompts = prompts_of(37, 21)
    outputs, _ = generate(runner, prompts, num_tokens=4)
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(oracle, prompt, output, bound * BOUND)


def test_prompt_tokens_of_many_rows_are_rated(place, prompt_kernels, oracle):
    runner = build_runner(place, RandomCheckpoint(CONFIG), prompt_kernels=prompt_kernels)
    prompt = prompts_of(40)[0]
    scheduler = Scheduler(BlockPool(NUM_BLOCKS, 16), max_sequences=1)
    params = SamplingParams(seed=1, max_tokens=1, temperature=0, num_prompt_logprobs=1)
    request = Request("0", prompt, params)
    scheduler.add(request)
    step = scheduler.schedule(64)
    scheduler.commit(step, runner.run(step))
    rated = torch.tensor([one.logprob for one in request.prompt_logprobs])
    expected = oracle(prompt).log_softmax(-1)[range(39), prompt[1:]]
    torch.testing.assert_close(rated, expected, rtol=0, atol=2 * BOUND)


def test_drawn_tokens_are_rated_as_the_oracle_does(place, prompt_kernels, oracle):
    """From the first one on, which the head over a prompt's last row draws."""
    runner = build_runner(place, RandomCheckpoint(CONFIG), prompt_kernels=prompt_kernels)
    prompt = prompts_of(37)[0]
    scheduler = Scheduler(BlockPool(NUM_BLOCKS, 16), max_sequences=1, looks_ahead=True)
    params = SamplingParams(seed=1, max_tokens=4, top_p=0.9, num_logprobs=1)
    request = Request("0", prompt, params)
    drawn = list(drawn_by(runner, scheduler, [request]))
    expected = oracle(request.token_ids[:-1])[len(prompt) - 1 :].log_softmax(-1)
    for one, row in zip(drawn, expected, strict=True):
        best = row[one.logprobs.top_ids[0]]
        assert row.max() - best < BOUND
        assert one.logprobs.top_logprobs == pytest.approx([float(best)], abs=2 * BOUND)
        assert one.logprobs.logprob == pytest.approx(float(row[one.token_id]), abs=2 * BOUND)


def test_logits_equal_the_oracle_within_bf16(place, oracle):
    runner = build_runner(place, RandomCheckpoint(CONFIG))
    prompt = prompts_of(29)[0]
    generate(runner, [prompt], num_tokens=1)
    logits = runner._decoder.logits(len(prompt))[-1].cpu()
    torch.testing.assert_close(logits, oracle(prompt)[-1], rtol=0, atol=BOUND)


@pytest.mark.parametrize("weight_format", PACKINGS)
def test_packed_weights_follow_the_oracle_of_their_rounded_matrices(place, weight_format):
    config = changed(hidden_size=256, num_heads=2, head_dim=128, intermediate_size=384)
    runner = build_runner(place, RandomCheckpoint(config), weight_format)
    prompts = prompts_of(3, 21)
    outputs, _ = generate(runner, prompts, num_tokens=4)
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(build_oracle(config, weight_format), prompt, output)


def test_drawn_tokens_repeat_with_their_seed(place):
    runner = build_runner(place, RandomCheckpoint(CONFIG))
    prompts = prompts_of(7)
    (first,), _ = generate(runner, prompts, num_tokens=5, temperature=1.0)
    (again,), _ = generate(runner, prompts, num_tokens=5, temperature=1.0)
    (other,), _ = generate(runner, prompts, num_tokens=5, temperature=1.0, seed=2)
    assert first == again
    assert first != other


def test_nan_in_the_weights_is_an_error_that_names_the_request(place):
    checkpoint = RandomCheckpoint(CONFIG, spoilt="model.layers.1.mlp.down_proj.weight")
    with pytest.raises(EngineError, match="request 0: its logits are not numbers"):
        generate(build_runner(place, checkpoint), prompts_of(3), num_tokens=2)


def test_nan_behind_a_token_that_is_only_rated_is_an_error_too(place):
    """A part of a prompt whose log-probabilities are asked for: nothing is drawn behind it."""
    checkpoint = RandomCheckpoint(CONFIG, spoilt="model.layers.1.mlp.down_proj.weight")
    step = Step([Chunk("0", [5, 6, 7], 0, [0], draw=None, targets=[6, 7, 8])])
    with pytest.raises(EngineError, match="request 0: its logits are not numbers"):
        build_runner(place, checkpoint).run(step)


def test_a_failure_of_the_gpu_names_the_step_and_how_to_find_the_op(place, monkeypatch):
    def fail():
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nand more lines")

    runner = build_runner(place, RandomCheckpoint(CONFIG))
    monkeypatch.setattr(runner._launches, "repeat", lambda kind: fail())
    with pytest.raises(EngineError) as error:
        generate(runner, prompts_of(2, 4), num_tokens=1)
    assert str(error.value) == (
        "the GPU failed in or before a step (rows: 6, sequences: 2, decoding: 0): CUDA error: an "
        "illegal memory access was encountered; to hear which op it is, start with "
        "CUDA_LAUNCH_BLOCKING=1 in the environment"
    )


def test_lack_of_memory_is_told_as_such_and_not_as_a_fault_of_the_gpu(place, monkeypatch):
    def fail():
        raise torch.OutOfMemoryError("tried to allocate 4 GiB")

    runner = build_runner(place, RandomCheckpoint(CONFIG))
    monkeypatch.setattr(runner._launches, "repeat", lambda kind: fail())
    with pytest.raises(torch.OutOfMemoryError, match="4 GiB"):
        generate(runner, prompts_of(2, 4), num_tokens=1)


@pytest.mark.parametrize(
    ("change", "weight_format", "message"),
    [
        ({"head_dim": 80}, "bfloat16", "head_dim 80"),
        ({"intermediate_size": 100}, "bfloat16", "intermediate_size 100: .* multiple of 32"),
        ({}, "int4", "hidden_size 192: with int4 weights .* multiple of 128"),
    ],
)
def test_unsupported_shape_is_refused_before_weights_are_read(change, weight_format, message):
    config, cpu = changed(**change), torch.device("cpu")
    unread = Weights(None, torch.bfloat16)
    with pytest.raises(StartError, match=message):
        load_llama(unread, config, 16, cpu, weight_format)


@pytest.mark.gpu
@pytest.mark.parametrize("rules", [{}, {"temperature": 0.9, "top_p": 0.9}])
@pytest.mark.parametrize(
    "switches",
    [
        {"uses_graphs": False},
        {"overlaps": False},
        {"runs_ahead": False},
        {"uses_graphs": False, "overlaps": False, "runs_ahead": False},
    ],
)
def test_switches_change_no_bit_of_a_token_or_its_likelihood(
    place, prompt_kernels, switches, rules
):
    """Of whole prompts, of what decodes beside them, and of what a rule draws."""
    if place.device.type != "cuda":
        pytest.skip("graphs and overlapping launches exist only on a GPU")
    fields = {"seed": 1, "max_tokens": 40, "temperature": 0, "num_logprobs": 5} | rules

    def drawn(**switches):
        checkpoint = RandomCheckpoint(CONFIG)
        runner = build_runner(place, checkpoint, prompt_kernels=prompt_kernels, **switches)
        scheduler = Scheduler(BlockPool(NUM_BLOCKS, 16), max_sequences=8, looks_ahead=True)
        params, prompts = SamplingParams(**fields), prompts_of(21, 37, 40, 3)
        requests = [Request(str(index), prompt, params) for index, prompt in enumerate(prompts)]
        return [
            (one.request.id, one.token_id, one.logprobs)
            for one in drawn_by(runner, scheduler, requests)
        ]

    expected = drawn()
    assert len(expected) == 4 * 40
    assert drawn(**switches) == expected
