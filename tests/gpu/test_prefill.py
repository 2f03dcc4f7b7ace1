"""Whole chunks of prompts against transformers in float32, and the references of the kernels.

`Prefill` is one order of ops, so its logic is shown with the plain-torch references on a CPU; the
same runs with the kernels where there is a GPU that has them.
"""

import pytest
import torch
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.llama_weights import load_llama
from openinference_engine.ops import cuda_reference
from openinference_engine.prefill import Prefill, chunks_of
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import CONFIG, RandomCheckpoint, build_oracle
from tests.gpu.test_cuda_runner import BOUND, prompts_of

PAGES = [[3, 0, 7], [2, 9, 5]]


@pytest.fixture(params=["reference", pytest.param("kernels", marks=pytest.mark.gpu)])
def prefill(request):
    if request.param == "reference":
        return build_prefill(cuda_reference, torch.device("cpu"))
    place = request.getfixturevalue("hopper")
    return build_prefill(place.ops, place.device, place.stream)


def build_prefill(kernels, device, stream=None):
    """(parts) → (rows, vocab): the logits behind every row of the chunks."""
    source = Weights(RandomCheckpoint(CONFIG), torch.bfloat16)
    weights = load_llama(source, CONFIG, CONFIG.max_positions, device)
    cache = KVCache(CONFIG, 10, device)
    for layer in (*cache.keys, *cache.values):
        layer.fill_(torch.nan)  # what no token wrote may hold anything
    prefill = Prefill(kernels, weights, CONFIG, cache, max_rows=64)

    def logits(parts):
        x, sum_squares = prefill.queue(chunks_of(parts, device), stream)
        scale = torch.rsqrt(sum_squares.sum(-1) / CONFIG.hidden_size + CONFIG.rms_norm_epsilon)
        head = weights.head[: CONFIG.vocab_size].float()
        return (scale[:, None] * (x.float() @ head.T)).cpu()

    return logits


def test_chunks_of_two_prompts_follow_the_oracle(prefill):
    first, second = prompts_of(37, 21)
    logits = prefill([(first, 0, PAGES[0]), (second[:5], 0, PAGES[1])])
    rest = prefill([(second[5:], 5, PAGES[1])])  # sees the pages that the first chunk filled
    oracle = build_oracle(CONFIG)
    for seen, prompt in ((logits[:37], first), (torch.cat([logits[37:], rest]), second)):
        torch.testing.assert_close(seen, oracle(prompt), rtol=0, atol=1.5 * BOUND)
