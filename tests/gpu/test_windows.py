"""Models whose layers see a window of positions, through scheduler, runner and kernels, against the
engine on a CPU, which other tests hold to transformers.

Bounds and the rule for tokens are those of test_cuda_runner.py.
"""

import pytest
from openinference_engine.config import ExpertsConfig
from openinference_engine.kv_formats import CODED_FORMATS

from tests.gpu.random_model import changed
from tests.gpu.sparse_model import SparseCheckpoint, cpu_engine
from tests.gpu.test_cuda_runner import BOUND, build_runner, check_greedy, generate, prompts_of

MODELS = {
    "itself": changed(architecture="mistral", windows=(1, 1)),
    "less than a page": changed(architecture="mistral", windows=(5, 5)),
    "a page": changed(architecture="mistral", windows=(16, 16)),
    "pages and a part": changed(architecture="mistral", windows=(20, 20)),
    "more than there are": changed(architecture="mistral", windows=(1000, 1000)),
    "one layer": changed(architecture="qwen3", windows=(None, 20)),
    "experts": changed(
        architecture="mixtral", windows=(33, 33), experts=ExpertsConfig(5, 2, 96, True)
    ),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_rows_follow_the_engine_on_a_cpu(place, model, is_deterministic):
    """Prompts too: in the deterministic mode, and on GPUs that have no kernels for them."""
    checkpoint = SparseCheckpoint(MODELS[model])
    runner = build_runner(place, checkpoint, is_deterministic=is_deterministic)
    check(runner, checkpoint, prompts_of(1, 14, 45))


@pytest.mark.parametrize("model", MODELS)
def test_chunks_of_prompts_follow_the_engine_on_a_cpu(place, prompt_kernels, model):
    """The second chunk of the long one begins where its first blocks are seen no more."""
    checkpoint = SparseCheckpoint(MODELS[model])
    runner = build_runner(place, checkpoint, prompt_kernels=prompt_kernels)
    check(runner, checkpoint, prompts_of(80, 37), token_budget=40)


@pytest.mark.parametrize(("name", "bound"), [("int8", 4), ("fp8", 8)])
@pytest.mark.parametrize("model", ["a page", "one layer"])
def test_codes_follow_the_engine_on_a_cpu(place, prompt_kernels, name, bound, model):
    """A window averages out fewer roundings than a context; seen: 1 and 4 times bf16's bound.

    Four bits would hide a token too many here: test_prefill.py and test_attention_ops.py tell.
    """
    checkpoint = SparseCheckpoint(MODELS[model])
    cache_format = CODED_FORMATS[name]
    runner = build_runner(
        place, checkpoint, prompt_kernels=prompt_kernels, cache_format=cache_format
    )
    check(runner, checkpoint, prompts_of(80, 37), bound, token_budget=40)


def check(runner, checkpoint, prompts, bound=1, num_tokens=5, **limits):
    window, oracle = checkpoint.config.window, cpu_engine(checkpoint)
    outputs, scheduler = generate(runner, prompts, num_tokens, window=window, **limits)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert len(output) == num_tokens
        check_greedy(oracle, prompt, output, bound * BOUND)
    return scheduler


def test_blocks_that_others_got_are_seen_no_more(place, prompt_kernels):
    """Seventeen in twelve: what some leave is written while others are read."""
    checkpoint = SparseCheckpoint(MODELS["pages and a part"])
    runner = build_runner(place, checkpoint, prompt_kernels=prompt_kernels)
    scheduler = check(runner, checkpoint, prompts_of(33, 34, 9, 3), num_tokens=40, num_blocks=12)
    assert scheduler.num_preemptions == 0
