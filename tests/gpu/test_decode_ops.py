"""Every decode kernel against its plain-torch reference, at odd sizes.

Inputs are seeded random; outputs start as NaN, so an element nobody wrote fails. Bounds: sums in
another order cost about 1e-6, a bf16 output one rounding more (2^-8 of the value at most).
"""

import math

import pytest
import torch
from openinference_engine import tiles
from openinference_engine.kv_formats import CODED_FORMATS
from openinference_engine.ops import cuda_cache
from openinference_engine.ops import cuda_reference as reference
from openinference_engine.packings import PACKINGS

BF16 = {"rtol": 2**-7, "atol": 2**-7}
FP32 = {"rtol": 1e-4, "atol": 1e-4}
EPSILON = 1e-5
TOKEN_COUNTS = [1, 3, 8, 9, 17, 32, 67]


class Inputs:
    """Seeded tensors on one device, and NaN for what an op must write."""

    def __init__(self, place):
        self.device = place.device
        self.random = torch.Generator().manual_seed(7)

    def normal(self, *shape, scale=1.0, dtype=torch.bfloat16):
        values = torch.randn(*shape, generator=self.random) * scale
        return values.to(dtype).to(self.device)

    def integers(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.random, dtype=torch.int32).to(
            self.device
        )

    def unwritten(self, *shape, dtype=torch.bfloat16):
        return torch.full(shape, math.nan, dtype=dtype, device=self.device)

    def zeros(self, *shape, dtype=torch.int32):
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def normed(self, tokens, hidden):
        """x and sum_squares as a producer would leave them."""
        state = self.normal(tokens, hidden, dtype=torch.float32)
        x, squares = (
            self.unwritten(tokens, hidden),
            self.unwritten(tokens, hidden // 16, dtype=torch.float32),
        )
        reference.write_norm_inputs(state, self.normal(hidden), x, squares)
        return x, squares

    def caches(self, cache_format, blocks, kv_heads, head_dim):
        """Keys and values of a layer as codes, all bytes and numbers of which are NaN or so."""
        sizes = 1, blocks, kv_heads, head_dim
        for vector_format in (cache_format.keys, cache_format.values):
            (cache,) = cuda_cache.empty_layers(vector_format, *sizes, self.device)
            cache.view(torch.uint8).fill_(0x7F)
            yield cache

    def pages(self, tokens, per_sequence, spare=3):
        """A block table whose pages are scattered over the cache, and the number of its blocks."""
        blocks = tokens * per_sequence + spare
        order = torch.randperm(blocks, generator=self.random, dtype=torch.int32)
        return order[: tokens * per_sequence].view(tokens, per_sequence).to(self.device), blocks


@pytest.fixture
def inputs(place):
    return Inputs(place)


def check(place, op, arguments, outputs, bounds=None):
    """Run kernel and reference on equal copies; compare the named outputs, within their bounds."""
    mine = {
        name: value.clone() if torch.is_tensor(value) else value
        for name, value in arguments.items()
    }
    theirs = {
        name: value.clone() if torch.is_tensor(value) else value
        for name, value in arguments.items()
    }
    getattr(place.ops, op)(**mine, stream=place.stream)
    getattr(reference, op)(**theirs)
    for name in outputs:
        bound = BF16 if mine[name].dtype == torch.bfloat16 else FP32
        bound = (bounds or {}).get(name, bound)
        torch.testing.assert_close(
            mine[name], theirs[name], equal_nan=True, **bound, msg=lambda m, n=name: f"{n}: {m}"
        )
    return mine


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
def test_embed_writes_rows_and_norm_inputs(place, inputs, tokens):
    ids = inputs.integers(-1, 52, tokens)  # -1, 50 and 51 are no tokens of a vocabulary of 50
    arguments = {
        "tokens": ids,
        "table": inputs.normal(50, 144),
        "norm_weight": inputs.normal(144),
        "hidden": inputs.unwritten(tokens, 144, dtype=torch.float32),
        "x": inputs.unwritten(tokens, 144),
        "sum_squares": inputs.unwritten(tokens, 9, dtype=torch.float32),
    }
    check(place, "embed", arguments, ["hidden", "x", "sum_squares"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (80, 576), (128, 2208)])
def test_project_residual_adds_to_hidden(place, inputs, tokens, rows, columns):
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": inputs.normal(rows, columns, scale=columns**-0.5),
        "norm_weight": inputs.normal(rows),
        "hidden": inputs.normal(tokens, rows, dtype=torch.float32),
        "x": inputs.unwritten(tokens, rows),
        "sum_squares": inputs.unwritten(tokens, rows // 16, dtype=torch.float32),
    }
    check(place, "project_residual", arguments, ["hidden", "x", "sum_squares"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("hidden", "intermediate"), [(32, 8), (576, 88), (2208, 40)])
def test_project_gate_up_applies_swiglu(place, inputs, tokens, hidden, intermediate):
    x, squares = inputs.normed(tokens, hidden)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(2 * intermediate, hidden, scale=hidden**-0.5),
        "out": inputs.unwritten(tokens, intermediate),
    }
    check(place, "project_gate_up", arguments, ["out"])


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize(("query_heads", "kv_heads", "head_dim"), [(2, 2, 128), (3, 1, 64)])
def test_project_qkv_rotates_and_appends(place, inputs, tokens, query_heads, kv_heads, head_dim):
    x, squares = inputs.normed(tokens, 192)
    table, blocks = inputs.pages(tokens, per_sequence=3)
    cache = (blocks * 16, kv_heads, head_dim)
    rows = (query_heads + 2 * kv_heads) * head_dim
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(rows, 192, scale=192**-0.5),
        "rotary": inputs.normal(48, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": table,
        "query": inputs.unwritten(tokens, query_heads, head_dim),
        "key_cache": inputs.unwritten(*cache),
        "value_cache": inputs.unwritten(*cache),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


@pytest.mark.parametrize("head_dim", [64, 128])
def test_project_qkv_without_pages_leaves_a_row_for_each_token(place, inputs, head_dim):
    tokens, kv_heads = 5, 2
    x, squares = inputs.normed(tokens, 192)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": inputs.normal(3 * kv_heads * head_dim, 192, scale=192**-0.5),
        "rotary": inputs.normal(48, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": inputs.integers(0, 1, tokens, 3)[:, :0],
        "query": inputs.unwritten(tokens, kv_heads, head_dim),
        "key_cache": inputs.unwritten(tokens, kv_heads, head_dim),
        "value_cache": inputs.unwritten(tokens, kv_heads, head_dim),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


coded = pytest.mark.parametrize("cache_format", CODED_FORMATS.values(), ids=CODED_FORMATS)
head_sizes = pytest.mark.parametrize("head_dim", [64, 128])


@coded
@head_sizes
def test_append_codes_writes_the_very_codes_of_the_reference(place, inputs, cache_format, head_dim):
    tokens, kv_heads = 7, 3
    table, blocks = inputs.pages(tokens, per_sequence=3)
    keys, values = inputs.caches(cache_format, blocks, kv_heads, head_dim)
    arguments = {
        "keys": inputs.normal(tokens, kv_heads, head_dim),
        "values": inputs.normal(tokens, kv_heads, head_dim, scale=1e-3),
        "positions": inputs.integers(-1, 48, tokens),
        "block_table": table,
        "key_cache": keys,
        "value_cache": values,
    }
    arguments["values"][0, 0] = 0  # a scale of 0 is none
    arguments["values"][1, 0] = 1.5  # nor is there one between equal elements
    mine, theirs = ({name: tensor.clone() for name, tensor in arguments.items()} for _ in range(2))
    place.ops.append_codes(**mine, stream=place.stream)
    reference.append_codes(**theirs)
    for name in ("key_cache", "value_cache"):
        assert torch.equal(mine[name].view(torch.uint8), theirs[name].view(torch.uint8)), name


def test_append_codes_refuses_a_cache_without_codes(place, inputs):
    table, blocks = inputs.pages(2, per_sequence=1)
    vectors, cache = inputs.normal(2, 1, 64), inputs.normal(blocks * 16, 1, 64)
    positions = inputs.integers(0, 16, 2)
    with pytest.raises(ValueError, match="key_cache: dtype bfloat16, expected codes"):
        place.ops.append_codes(vectors, vectors, positions, table, cache, cache, place.stream)


grids = pytest.mark.parametrize(("splits", "warps"), [(1, 16), (3, 8), (6, 4)])


@grids
@head_sizes
@pytest.mark.parametrize("group", [1, 3, 10])
def test_attend_equals_softmax_over_the_pages(place, inputs, splits, warps, head_dim, group):
    kv_heads = 2
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=40)
    keys, values = (inputs.normal(blocks * 16, kv_heads, head_dim) for _ in range(2))
    for token, position in enumerate(POSITIONS):  # what no token wrote may hold anything
        unwritten = reference.slots_of(table[token])[position + 1 :]
        keys[unwritten] = values[unwritten] = math.nan
    arguments = _attention(inputs, head_dim, keys, values, table, group * kv_heads, (splits, warps))
    after = check(place, "attend", arguments, ["out"])
    assert not after["counters"].any()  # ready for the next layer


@coded
@head_sizes
def test_attend_reads_codes(place, inputs, cache_format, head_dim):
    kv_heads = 2
    table, blocks = inputs.pages(len(POSITIONS), per_sequence=40)
    keys, values = inputs.caches(cache_format, blocks, kv_heads, head_dim)
    for token, position in enumerate(POSITIONS):
        for slot in reference.slots_of(table[token])[: position + 1].tolist():
            for cache in (keys, values):
                cuda_cache.append(cache, slot, inputs.normal(kv_heads, head_dim))
    arguments = _attention(inputs, head_dim, keys, values, table, 3 * kv_heads, grid=(3, 8))
    check(place, "attend", arguments, ["out"])


POSITIONS = [-1, 0, 15, 16, 150, 639]


def _attention(inputs, head_dim, keys, values, table, query_heads, grid):
    tokens, (splits, warps) = len(POSITIONS), grid
    parts = tokens * query_heads * splits * (head_dim + 2)
    return {
        "query": inputs.normal(tokens, query_heads, head_dim),
        "key_cache": keys,
        "value_cache": values,
        "positions": torch.tensor(POSITIONS, dtype=torch.int32, device=inputs.device),
        "block_table": table,
        "scale": head_dim**-0.5,
        "splits": splits,
        "warps": warps,
        "workspace": inputs.unwritten(parts, dtype=torch.float32),
        "counters": inputs.zeros(tokens * query_heads),
        "out": inputs.unwritten(tokens, query_heads, head_dim),
    }


@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("vocabulary", [1, 80, 1031])
def test_choose_token_takes_the_largest_logit_and_moves_on(place, inputs, tokens, vocabulary):
    arguments = _choice(place, inputs, tokens, _padded(inputs, vocabulary), vocabulary)
    arguments["positions"] = inputs.integers(-1, 9, tokens)
    after = check(place, "choose_token", arguments, ["logits", "positions"])
    chosen = torch.where(arguments["positions"] < 0, -1, after["logits"].argmax(-1))
    assert after["tokens"].tolist() == chosen.tolist()
    assert not after["counter"].any()


def test_choose_token_breaks_ties_by_the_lowest_id(place, inputs):
    weights = inputs.normal(1, 96).repeat(64, 1)
    arguments = _choice(place, inputs, 3, weights)
    after = check(place, "choose_token", arguments, ["logits"])
    assert after["tokens"].tolist() == [0, 0, 0]


def test_choose_token_stops_a_row_without_logits(place, inputs):
    """NaN must not become a token id: the next embed would read outside its table."""
    arguments = _choice(place, inputs, 2, inputs.normal(64, 96))
    arguments["x"][0] = math.nan
    after = check(place, "choose_token", arguments, ["tokens", "positions"])
    assert after["tokens"][0] == -1
    assert after["positions"].tolist() == [-1, 1]


def _padded(inputs, vocabulary):
    """Padding rows that would win every comparison if they took part."""
    weights = torch.full((-(-vocabulary // 16) * 16, 96), math.inf, dtype=torch.bfloat16)
    weights[:vocabulary] = inputs.normal(vocabulary, 96, scale=96**-0.5)
    return weights.to(inputs.device)


def _choice(place, inputs, tokens, weights, vocabulary=None):
    x, squares = inputs.normed(tokens, weights.shape[1])
    return {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": weights,
        "logits": inputs.unwritten(tokens, vocabulary or len(weights), dtype=torch.float32),
        "tokens": inputs.zeros(tokens),
        "positions": inputs.zeros(tokens),
        "best": inputs.unwritten(
            4 * tokens * place.ops.multiprocessor_count(), dtype=torch.float32
        ),
        "counter": inputs.zeros(1),
    }


def test_empty_batch_is_a_step_that_does_nothing(place, inputs):
    x, squares = inputs.normed(0, 64)
    weights, out = inputs.normal(16, 64), inputs.unwritten(0, 8)
    place.ops.project_gate_up(x, squares, EPSILON, weights, out, place.stream)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("x", lambda x: x.float(), "x: dtype float32, expected bfloat16"),
        ("out", lambda out: out[:1].clone(), r"out: shape \(1, 8\), expected \(2, 8\)"),
        ("weights", lambda weights: weights.T.contiguous().T, "weights: not contiguous"),
        ("weights", lambda weights: _moved_by_one(weights), "weights: address is not a multiple"),
        ("out", lambda out: out[:, 1:].clone(), "out: 7 columns, need a multiple of 8"),
    ],
)
def test_launcher_refuses_and_names_what_is_wrong(place, inputs, name, spoil, message):
    x, squares = inputs.normed(2, 64)
    arguments = {"x": x, "sum_squares": squares, "epsilon": EPSILON}
    arguments |= {"weights": inputs.normal(16, 64), "out": inputs.unwritten(2, 8)}
    arguments[name] = spoil(arguments[name])
    with pytest.raises(place.ops.KernelError, match=message):
        place.ops.project_gate_up(**arguments, stream=place.stream)


def _moved_by_one(matrix):
    """The same shape, one element behind an aligned address."""
    return matrix.new_zeros(matrix.numel() + 1)[1:].view(matrix.shape)


packings = pytest.mark.parametrize("packing", PACKINGS.values(), ids=PACKINGS)


@packings
@pytest.mark.parametrize("tokens", TOKEN_COUNTS)
@pytest.mark.parametrize("columns", [128, 384, 4224])
def test_packed_weights_multiply_like_their_dense_matrix(place, inputs, packing, tokens, columns):
    """For many tokens a GPU rounds each weight to bf16 once more, after it was scaled."""
    matrix, order = inputs.normal(80, columns, scale=columns**-0.5), tiles.plain_order(80)
    arguments = {
        "input": inputs.normal(tokens, columns),
        "weights": packing.pack(*packing.quantise(matrix), order),
        "norm_weight": inputs.normal(80),
        "hidden": inputs.normal(tokens, 80, dtype=torch.float32),
        "x": inputs.unwritten(tokens, 80),
        "sum_squares": inputs.unwritten(tokens, 5, dtype=torch.float32),
    }
    rounds_weights = tokens > 16 and place.device.type == "cuda"
    times_norm = {"rtol": 2**-5, "atol": 2**-5}  # hidden's bound, by a norm weight of up to four
    rounded = {"hidden": BF16, "x": times_norm, "sum_squares": BF16}
    bounds = rounded if rounds_weights else {}
    check(place, "project_residual", arguments, ["hidden", "x", "sum_squares"], bounds)


@packings
def test_packed_gate_up_pairs_the_rows_of_a_tile(place, inputs, packing):
    x, squares = inputs.normed(5, 256)
    parts = packing.quantise(inputs.normal(80, 256, scale=256**-0.5))
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": packing.pack(*parts, tiles.gate_up_order(80)),
        "out": inputs.unwritten(5, 40),
    }
    check(place, "project_gate_up", arguments, ["out"])


@packings
@pytest.mark.parametrize("head_dim", [64, 128])
def test_packed_qkv_pairs_the_halves_of_a_head(place, inputs, packing, head_dim):
    x, squares = inputs.normed(4, 128)
    table, blocks = inputs.pages(4, per_sequence=1)
    parts = packing.quantise(inputs.normal(4 * head_dim, 128, scale=128**-0.5))
    cache = (blocks * 16, 1, head_dim)
    arguments = {
        "x": x,
        "sum_squares": squares,
        "epsilon": EPSILON,
        "weights": packing.pack(*parts, tiles.qkv_order(4 * head_dim, head_dim)),
        "rotary": inputs.normal(16, head_dim // 2, 2, dtype=torch.float32),
        "positions": inputs.integers(0, 16, 4),
        "block_table": table,
        "query": inputs.unwritten(4, 2, head_dim),
        "key_cache": inputs.unwritten(*cache),
        "value_cache": inputs.unwritten(*cache),
    }
    check(place, "project_qkv", arguments, ["query", "key_cache", "value_cache"])


@packings
def test_packed_head_chooses_like_its_dense_matrix(place, inputs, packing):
    units = packing.pack(
        *packing.quantise(inputs.normal(80, 128, scale=128**-0.5)), tiles.plain_order(80)
    )
    arguments = _choice(place, inputs, 3, inputs.normal(80, 128)) | {"weights": units}
    after = check(place, "choose_token", arguments, ["logits"])
    assert after["tokens"].tolist() == after["logits"].argmax(-1).tolist()
