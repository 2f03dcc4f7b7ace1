"""Whole chunks of prompts against transformers in float32, and the references of the kernels.

`Prefill` is one order of ops, so its logic is shown with the plain-torch references on a CPU; the
same runs with the kernels where there is a GPU that has them.
"""

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openinference_engine.chunks import readings_of
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.kv_formats import BFLOAT16, CODED_FORMATS
from openinference_engine.llama_weights import load_llama
from openinference_engine.ops import cuda_reference
from openinference_engine.ops.plan import NO_WINDOW
from openinference_engine.prefill import COUNT_BYTES, Prefill, room_for, row_bytes
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.row_attention import RowAttention
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import CONFIG, RandomCheckpoint, build_oracle, changed
from tests.gpu.sparse_model import SparseCheckpoint, cpu_engine
from tests.gpu.test_cuda_runner import BOUND, prompts_of

PAGES = [[3, 0, 7], [2, 9, 5]]


@pytest.fixture(params=["reference", pytest.param("kernels", marks=pytest.mark.gpu)])
def place_of_prompts(request):
    if request.param == "reference":
        return cuda_reference, torch.device("cpu"), None
    place = request.getfixturevalue("hopper")
    return place.ops, place.device, place.stream


def build_prefill(kernels, device, stream, cache_format=BFLOAT16, config=CONFIG):
    """(parts) → (rows, vocab): the logits behind every row of the chunks."""
    source = Weights(RandomCheckpoint(config), torch.bfloat16)
    weights = load_llama(source, config, config.max_positions, device)
    cache = KVCache(config, 10, device, cache_format)
    for layer in (*cache.keys, *cache.values):
        layer.view(torch.uint8).fill_(0xFF)  # NaN: what no token wrote may hold anything
    rows = RowAttention(kernels, config, device, multiprocessors=4)
    attention = PromptAttention(kernels, cache, rows, num_blocks=len(PAGES[0]))
    prefill = Prefill(kernels, weights, config, cache, attention, max_rows=64)

    def logits(parts):
        x, sum_squares = prefill.queue_parts(parts, stream)
        scale = torch.rsqrt(sum_squares.sum(-1) / CONFIG.hidden_size + CONFIG.rms_norm_epsilon)
        head = weights.head[: CONFIG.vocab_size].float()
        return (scale[:, None] * (x.float() @ head.T)).cpu()

    return logits


def test_chunks_of_two_prompts_follow_the_oracle(place_of_prompts):
    for seen, expected in two_prompts(build_prefill(*place_of_prompts)):
        torch.testing.assert_close(seen, expected, rtol=0, atol=1.5 * BOUND)


@pytest.mark.parametrize(
    ("weight_format", "max_rows", "matrix_bytes"),
    [("int4", 2048, 2 * 1024 * 128), ("fp8", 512, None), ("bfloat16", 2048, None)],
)
def test_packed_weights_of_long_steps_have_room_for_the_largest_matrix(
    weight_format, max_rows, matrix_bytes
):
    """Gate and up, in bfloat16: 1,024 rows of 128 columns."""
    config = changed(hidden_size=128, intermediate_size=512, num_heads=2, num_kv_heads=1)
    source = Weights(RandomCheckpoint(config), torch.bfloat16)
    weights = load_llama(source, config, 16, torch.device("cpu"), weight_format)
    room = room_for(weights, max_rows)
    assert (room is None) == (matrix_bytes is None)
    if room is not None:
        assert len(room) == COUNT_BYTES + matrix_bytes
        assert not room.any()


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("cache_format", [BFLOAT16, CODED_FORMATS["int8"]], ids=["bf16", "codes"])
def test_what_a_row_takes_is_what_is_planned_for_it(architecture, cache_format):
    config, device = changed(architecture=architecture), torch.device("cpu")
    source = Weights(SparseCheckpoint(config), torch.bfloat16)
    weights = load_llama(source, config, config.max_positions, device)
    cache = KVCache(config, 10, device, cache_format)
    attention = PromptAttention(
        cuda_reference, cache, RowAttention(cuda_reference, config, device, 4), num_blocks=3
    )

    def bytes_of(rows):
        prefill = Prefill(cuda_reference, weights, config, cache, attention, rows)
        owned = [*vars(prefill).values(), *vars(prefill._new_heads).values()]
        parts = (part for one in owned for part in (one if isinstance(one, tuple) else [one]))
        return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))

    assert bytes_of(48) - bytes_of(16) == 32 * row_bytes(config, cache_format.is_coded)


codes = pytest.mark.parametrize(
    ("name", "bound"), [("fp8", 0.1), ("int8", 0.03), ("int8-int4", 0.3), ("int4", 0.3)]
)


@codes
def test_chunks_over_codes_follow_the_oracle(place_of_prompts, name, bound):
    """One prompt after the other: both do not fit into the copy. Seen: 0.057, 0.017, 0.18, 0.20,
    where bfloat16 has 0.008."""
    for seen, expected in two_prompts(build_prefill(*place_of_prompts, CODED_FORMATS[name])):
        assert (seen - expected).square().mean().sqrt() < bound


@codes
def test_chunks_over_codes_within_windows_follow_the_oracle(place_of_prompts, name, bound):
    """The first block of the second chunk is seen in one layer only."""
    config = changed(windows=(5, 28))
    prefill = build_prefill(*place_of_prompts, CODED_FORMATS[name], config)
    (prompt,) = prompts_of(48)
    seen = [prefill([(prompt[a:b], a, PAGES[0][: b // 16])]) for a, b in ((0, 32), (32, 48))]
    expected = cpu_engine(RandomCheckpoint(config))(prompt)
    assert (torch.cat(seen) - expected).square().mean().sqrt() < bound


def two_prompts(prefill):
    """Logits of chunks beside the oracle's, of each prompt."""
    first, second = prompts_of(37, 21)
    logits = prefill([(first, 0, PAGES[0]), (second[:5], 0, PAGES[1])])
    rest = prefill([(second[5:], 5, PAGES[1])])  # sees the pages that the first chunk filled
    oracle = build_oracle(CONFIG)
    return (logits[:37], oracle(first)), (torch.cat([logits[37:], rest]), oracle(second))


sequences = st.lists(
    st.tuples(st.integers(1, 70), st.integers(0, 40), st.permutations(range(9))), min_size=1
)


@given(sequences, st.sampled_from([1, 16, 20, NO_WINDOW]))
def test_readings_bring_every_sequence_the_blocks_that_it_sees(sequences, window):
    """Some of which others have too; a copy has room for the longest."""
    parts = [
        ([7] * count, first, order[: -(-(first + count) // 16)])
        for count, first, order in sequences
    ]
    seen, hidden = [], [max(first + 1 - window, 0) // 16 for _, first, _ in parts]
    for reading in readings_of(parts, room=7, window=window):
        assert len(reading.blocks) <= 7
        bounds = reading.starts.tolist()
        assert reading.longest == max(end - start for start, end in pairwise(bounds))
        read = set()
        for (start, end), length, places in zip(
            pairwise(bounds), reading.lengths.tolist(), reading.pages, strict=True
        ):
            blocks = reading.blocks[places].tolist()[hidden[len(seen)] : -(-length // 16)]
            seen.append((start, end - start, length, blocks))
            read.update(blocks)
        assert set(reading.blocks.tolist()) == read
    rows = accumulate((len(ids) for ids, _, _ in parts), initial=0)
    assert seen == [
        (row, len(ids), first + len(ids), blocks[skipped:])
        for row, (ids, first, blocks), skipped in zip(rows, parts, hidden, strict=False)
    ]
