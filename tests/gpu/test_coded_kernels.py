"""The stand-in that codes rows before their products, over the reference kernels."""

import msgspec
import pytest
import torch
from openinference_engine import tiles
from openinference_engine.activation_codes import CODE_TYPES, rounded
from openinference_engine.coded_kernels import WEIGHTS_OF, CodedKernels, activations_of
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.decoder import Decoder
from openinference_engine.ops import cuda_reference
from openinference_engine.packings import PACKINGS, pack_matrix

from benchmarks.kernels import place_sequences
from benchmarks.shapes import SHAPES, random_llama
from tests.gpu.op_checks import EPSILON, Inputs

TINY = SHAPES["tiny"]


@pytest.fixture(params=[name for able in WEIGHTS_OF.values() for name in able])
def name(request):
    """Of the weights."""
    return request.param


@pytest.fixture
def inputs():
    class Cpu:
        device = torch.device("cpu")

    return Inputs(Cpu)


@pytest.fixture
def kernels(name):
    activations = activations_of(name)
    return CodedKernels(cuda_reference, activations, TINY, most_rows=40, device=torch.device("cpu"))


def _rounded(x, name):
    """Whole rows have one scale, but for int8."""
    columns = tiles.GROUP_COLUMNS if name == "int8" else x.shape[1]
    return rounded(x, CODE_TYPES[activations_of(name)], columns)


def _gate_up(inputs, name, rows):
    x, squares = inputs.normed(rows, TINY.hidden_size)
    outputs = 2 * TINY.intermediate_size
    matrix = inputs.normal(outputs, TINY.hidden_size, scale=TINY.hidden_size**-0.5)
    weights = pack_matrix(PACKINGS[name], matrix, tiles.gate_up_order(outputs))
    return [x, squares, EPSILON, weights]


def test_many_rows_are_multiplied_as_codes(inputs, kernels, name):
    x, *others = _gate_up(inputs, name, 40)
    out, expected = (inputs.unwritten(40, TINY.intermediate_size) for _ in range(2))
    kernels.project_gate_up(x, *others, out, None)
    cuda_reference.project_gate_up(_rounded(x, name), *others, expected)
    torch.testing.assert_close(out, expected)


def test_few_rows_stay_as_they_are(inputs, kernels, name):
    arguments = _gate_up(inputs, name, 32)
    out, expected = (inputs.unwritten(32, TINY.intermediate_size) for _ in range(2))
    kernels.project_gate_up(*arguments, out, None)
    cuda_reference.project_gate_up(*arguments, expected)
    assert torch.equal(out, expected)


def test_an_input_without_a_norm_is_coded_as_it_is(inputs, kernels, name):
    """The widest input there is."""
    rows, hidden, inner = 40, TINY.hidden_size, TINY.intermediate_size
    x = inputs.normal(rows, inner)
    weights = pack_matrix(PACKINGS[name], inputs.normal(hidden, inner), tiles.plain_order(hidden))

    def state():
        squares = inputs.unwritten(rows, hidden // 16, dtype=torch.float32)
        return torch.zeros(rows, hidden), inputs.unwritten(rows, hidden), squares

    mine, theirs, norm = state(), state(), torch.ones(hidden).bfloat16()
    kernels.project_residual(x, weights, norm, *mine, None)
    cuda_reference.project_residual(_rounded(x, name), weights, norm, *theirs)
    torch.testing.assert_close(mine, theirs)


def test_heads_that_are_normed_are_multiplied_as_codes(inputs, kernels, name):
    rows, heads, head_dim = 40, TINY.num_heads + 2 * TINY.num_kv_heads, TINY.head_dim
    x, squares = inputs.normed(rows, TINY.hidden_size)
    matrix = inputs.normal(heads * head_dim, TINY.hidden_size, scale=TINY.hidden_size**-0.5)
    weights = pack_matrix(PACKINGS[name], matrix, tiles.plain_order(heads * head_dim))
    places = inputs.normal(48, head_dim // 2, 2), inputs.integers(0, 48, rows)
    sums = inputs.unwritten(rows, heads * head_dim, dtype=torch.float32)
    others = squares, EPSILON, weights, inputs.normal(2, head_dim), sums, *places

    def outputs():
        counts = TINY.num_heads, TINY.num_kv_heads, TINY.num_kv_heads
        return [inputs.unwritten(rows, count, head_dim) for count in counts]

    no_pages, mine, theirs = inputs.integers(0, 1, rows, 0), outputs(), outputs()
    kernels.project_normed_qkv(x, *others, no_pages, *mine, None)
    cuda_reference.project_normed_qkv(_rounded(x, name), *others, no_pages, *theirs)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [33, 100])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_step_of_codes_is_near_one_of_bfloat16(hopper, name, rows, architecture):
    """Every buffer, norm and residual of a step: logits of the same weights, one rounding apart."""
    model = msgspec.structs.replace(TINY, architecture=architecture)
    weights = random_llama(model, 64, hopper.device, name)

    def logits(kernels):
        cache = KVCache(model, rows * 2, hopper.device)
        for layer in (*cache.keys, *cache.values):
            layer.normal_(generator=torch.Generator(hopper.device).manual_seed(5))
        decoder = Decoder(kernels, weights, model, cache, 2)
        place_sequences(decoder, rows, 20)
        decoder.queue(rows, hopper.stream)
        return decoder.logits(rows).clone()

    exact = logits(hopper.ops)
    coded = logits(CodedKernels(hopper.ops, activations_of(name), model, rows, hopper.device))
    assert (coded - exact).std() < 0.1 * exact.std()
    assert not torch.equal(coded, exact)
