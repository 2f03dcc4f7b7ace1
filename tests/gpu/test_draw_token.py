"""Tokens drawn by the kernel are those that `sampling` draws on a CPU from the same logits."""

import math

import pytest
import torch
from openinference_engine.request import SamplingParams
from openinference_engine.rules import MOST_BIASES, pack_biases, pack_rule
from openinference_engine.sampling import sample
from openinference_engine.step import Draw

VOCABULARY, LENGTH = 1031, 48  # no multiple of anything

RULES = {
    "greedy": {"temperature": 0},
    "all tokens": {},
    "cool": {"temperature": 0.3},
    "hot": {"temperature": 3.0},
    "one": {"top_k": 1},
    "top-k": {"top_k": 40},
    "more than there are": {"top_k": 5000},
    "top-p": {"top_p": 0.9},
    "narrow top-p": {"top_p": 0.0},
    "wide top-p": {"top_p": 0.999, "temperature": 2.0},
    "min-p": {"min_p": 0.05},
    "all three": {"top_k": 60, "top_p": 0.95, "min_p": 0.01, "temperature": 0.8},
    "biases": {"logit_bias": {3: 9.0, 1030: 8.5, 5: -100.0}},
    "greedy by bias": {"temperature": 0, "logit_bias": {17: 100.0}},
    "presence": {"presence_penalty": 1.5, "top_p": 0.8},
    "frequency": {"frequency_penalty": 0.7},
    "repetition": {"repetition_penalty": 1.3, "top_k": 30},
    "greedy with penalties": {"temperature": 0, "repetition_penalty": 3.0, "presence_penalty": 1.0},
    "everything": {
        "repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": -0.3,
        "logit_bias": {2: 4.0}, "top_k": 99, "top_p": 0.97, "min_p": 0.001, "choice": 3,
    },
}  # fmt: skip


def drawn_by_kernel(place, logits, draws):
    """The token of each row; checks that the scratch is left as it came."""
    rows, vocabulary = logits.shape
    tables = {
        "rules": torch.zeros(rows, 16, dtype=torch.int32),
        "biases": torch.zeros(rows, MOST_BIASES, 2, dtype=torch.int32),
        "history": torch.zeros(rows, LENGTH, dtype=torch.int32),
    }
    for row, draw in enumerate(draws):
        tables["rules"][row] = torch.from_numpy(pack_rule(draw.params, draw.num_prompt).copy())
        biases = torch.from_numpy(pack_biases(draw.params))
        tables["biases"][row].view(-1)[: len(biases)] = biases
        tables["history"][row, : len(draw.history)] = torch.tensor(draw.history)
    tables = {name: table.to(place.device) for name, table in tables.items()}
    likeliest = logits.nan_to_num(-math.inf).argmax(-1).int().to(place.device)
    positions = torch.tensor([len(draw.history) for draw in draws], dtype=torch.int32)
    counts = torch.zeros(rows, vocabulary, dtype=torch.int32, device=place.device)
    place.ops.draw_token(
        logits.clone().to(place.device),
        likeliest,
        positions.to(place.device),
        **tables,
        counts=counts,
        stream=place.stream,
    )
    assert not counts.any()
    for row, draw in enumerate(draws):  # where the next draw would find it
        if draw.params.presence_penalty:
            assert tables["history"][row, len(draw.history)] == likeliest[row]
    return likeliest.tolist()


def draws_of(rules, rows, random):
    """Rows that differ in seed and in what they have said, of which much is said again."""
    draws = []
    for row in range(rows):
        length = int(torch.randint(3, 40, (), generator=random))
        history = torch.randint(0, 12, (length,), generator=random)
        params = SamplingParams(**({"seed": 2**40 + 7 * row, "max_tokens": 99} | rules))
        draws.append(Draw(params, 1 + row % 3, history.tolist()))
    return draws


@pytest.mark.parametrize("name", RULES)
def test_kernel_draws_what_the_cpu_draws(place, name):
    """From flat logits and from steep ones."""
    random = torch.Generator().manual_seed(5)
    scales = torch.tensor([[1.0], [1.0], [1.0], [4.0], [4.0], [4.0]])
    logits = torch.randn(6, VOCABULARY, generator=random) * scales
    draws = draws_of(RULES[name], 6, random)
    assert drawn_by_kernel(place, logits, draws) == sample(logits, draws)


@pytest.mark.parametrize("name", ["all tokens", "one", "top-k", "wide top-p", "all three"])
def test_rows_of_more_tokens_than_shared_memory_holds(place, name):
    """The head ends among the first of them, or behind more than fit there."""
    random = torch.Generator().manual_seed(5)
    logits = torch.randn(4, 9001, generator=random) * torch.tensor([[0.0], [0.5], [1.0], [4.0]])
    draws = draws_of(RULES[name], 4, random)
    assert drawn_by_kernel(place, logits, draws) == sample(logits, draws)


@pytest.mark.parametrize("name", ["all tokens", "top-k", "top-p", "min-p"])
@pytest.mark.parametrize("vocabulary", [1, 33, 1024])
def test_ties_go_by_the_lower_id(place, name, vocabulary):
    random = torch.Generator().manual_seed(5)
    logits = torch.randint(0, 3, (4, vocabulary), generator=random).float()
    draws = [
        Draw(SamplingParams(seed=row, max_tokens=9, **RULES[name]), 1, [0]) for row in range(4)
    ]
    assert drawn_by_kernel(place, logits, draws) == sample(logits, draws)


def test_what_is_no_number_is_never_drawn(place):
    logits = torch.zeros(8, 64)
    logits[:, ::2] = math.nan
    logits[:, 1] = math.inf
    draws = draws_of(RULES["top-p"], 8, torch.Generator().manual_seed(5))
    assert drawn_by_kernel(place, logits, draws) == [1] * 8


@pytest.mark.parametrize("name", ["all tokens", "top-p", "greedy with penalties", "everything"])
def test_without_a_likely_token_the_first_number_is_drawn(place, name):
    """Where all logits are infinitely small."""
    logits = torch.full((2, VOCABULARY), -math.inf)
    logits[1, :5] = math.nan
    draws = draws_of(RULES[name], 2, torch.Generator().manual_seed(5))
    assert drawn_by_kernel(place, logits, draws) == sample(logits, draws) == [0, 5]


def test_row_that_is_none_keeps_its_token(place):
    tables = {
        "rules": torch.from_numpy(pack_rule(SamplingParams(seed=1, max_tokens=9), 1).copy())[None],
        "biases": torch.zeros(1, 2, 2, dtype=torch.int32),
        "history": torch.zeros(1, 4, dtype=torch.int32),
        "counts": torch.zeros(1, 64, dtype=torch.int32),
        "positions": torch.tensor([-1], dtype=torch.int32),
        "logits": torch.zeros(1, 64),
    }
    tokens = torch.tensor([-1], dtype=torch.int32, device=place.device)
    moved = {name: table.to(place.device) for name, table in tables.items()}
    place.ops.draw_token(tokens=tokens, **moved, stream=place.stream)
    assert tokens.tolist() == [-1]


def test_update_writes_words_to_their_places(place):
    words = torch.zeros(1000, dtype=torch.int32, device=place.device)
    places = torch.randperm(1000, generator=torch.Generator().manual_seed(1)).int()[:700]
    values = torch.arange(700, dtype=torch.int32)
    pinned = place.device.type == "cuda"
    sent = [one.pin_memory() if pinned else one for one in (places, values)]
    place.ops.update(words, *sent, place.stream)
    expected = torch.zeros(1000, dtype=torch.int32).index_copy_(0, places.long(), values)
    torch.testing.assert_close(words.cpu(), expected)
