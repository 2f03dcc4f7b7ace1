"""Drawing: a pure function of key and logits, with the filters and penalties that users know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from openinference_engine.chance import fraction, part_of, random_bits
from openinference_engine.request import SamplingParams
from openinference_engine.sampling import sample
from openinference_engine.step import Draw

# Probabilities 0.5, 0.25, 0.15, 0.07, 0.03, in an order that is not sorted.
LOGITS = torch.tensor([0.15, 0.5, 0.03, 0.25, 0.07]).log()


def draw_many(num_draws: int, logits: torch.Tensor = LOGITS, **settings: Any) -> list[int]:
    params = [SamplingParams(seed=seed, max_tokens=9, **settings) for seed in range(num_draws)]
    return sample(logits.repeat(num_draws, 1), [Draw(one, 1, [0]) for one in params])


def test_draws_follow_the_distribution() -> None:
    """4,000 draws: a share strays by 3.5 standard deviations (0.028) once in two thousand."""
    drawn = torch.bincount(torch.tensor(draw_many(4000)), minlength=5) / 4000
    torch.testing.assert_close(drawn, LOGITS.exp(), atol=0.028, rtol=0)


def test_temperature_sharpens() -> None:
    """At 0.5 the shares are those of the squared probabilities."""
    squared = LOGITS.exp() ** 2
    drawn = torch.bincount(torch.tensor(draw_many(4000, temperature=0.5)), minlength=5) / 4000
    torch.testing.assert_close(drawn, squared / squared.sum(), atol=0.028, rtol=0)


@pytest.mark.parametrize(
    ("settings", "possible"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 9}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.4}, {1}),
        ({"top_p": 0.6}, {1, 3}),
        ({"top_p": 0.92}, {0, 1, 3, 4}),
        ({"min_p": 0.2}, {0, 1, 3}),
        ({"top_k": 3, "top_p": 0.6}, {1, 3}),
        ({"temperature": 0.0}, {1}),
        ({"logit_bias": {2: 100.0}}, {2}),
        ({"logit_bias": {1: -100.0}, "temperature": 0.0}, {3}),
        ({"stop_token_ids": frozenset({1, 3}), "min_tokens": 1}, {0, 2, 4}),
        ({"allowed_token_ids": frozenset({0, 4})}, {0, 4}),
        ({"bad_words": [[1], [0, 3]]}, {0, 2, 3, 4}),
        # A rule that would leave nothing is passed over.
        ({"allowed_token_ids": frozenset({4}), "bad_words": [[4]]}, {4}),
    ],
)
def test_filters_leave_exactly_these_tokens(settings: dict[str, Any], possible: set[int]) -> None:
    assert set(draw_many(600, **settings)) == possible


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1),
        ({"presence_penalty": 1.0}, 3),  # 1 was drawn before
        ({"frequency_penalty": 0.4}, 3),  # twice
        ({"frequency_penalty": 0.3}, 1),
        ({"repetition_penalty": 2.5}, 3),  # negative logits grow
    ],
)
def test_penalties_count_what_was_drawn(settings: dict[str, Any], expected: int) -> None:
    params = SamplingParams(seed=0, max_tokens=9, temperature=0, **settings)
    assert sample(LOGITS[None], [Draw(params, 1, [0, 1, 1])]) == [expected]


@pytest.mark.parametrize(
    ("bad_words", "expected"),
    [
        ([[0, 1]], 3),  # the output ends with 0, so 1 would complete the word
        ([[4, 0, 1]], 3),
        ([[2, 0, 1]], 1),
        ([[7, 4, 0, 1]], 1),  # longer than the output; 7 stands in the prompt
        ([[0, 1], [0, 3]], 0),
    ],
)
def test_bad_word_is_cut_off_at_its_last_token(bad_words: list[list[int]], expected: int) -> None:
    params = SamplingParams(seed=0, max_tokens=9, temperature=0, bad_words=bad_words)
    assert sample(LOGITS[None], [Draw(params, 1, [7, 4, 0])]) == [expected]


def test_repetition_penalty_counts_the_prompt_and_the_others_do_not() -> None:
    history = [1]  # the prompt alone
    for settings, expected in (({"presence_penalty": 2.0}, 1), ({"repetition_penalty": 3.0}, 3)):
        params = SamplingParams(seed=0, max_tokens=9, temperature=0, **settings)
        assert sample(LOGITS[None], [Draw(params, 1, history)]) == [expected]


def test_draw_depends_on_its_key_alone() -> None:
    """The same sequence draws the same token wherever it stands in whatever batch."""
    logits = torch.randn(32, 1000, generator=torch.Generator().manual_seed(1))
    params = [
        SamplingParams(seed=row, max_tokens=9, temperature=1.3, top_p=0.9 if row % 2 else 1.0)
        for row in range(32)
    ]
    draws = [Draw(one, 1, [0] * (1 + row)) for row, one in enumerate(params)]
    together = sample(logits, draws)
    alone = [sample(logits[row : row + 1], [draws[row]])[0] for row in range(32)]
    backwards = sample(logits.flip(0), draws[::-1])[::-1]
    assert together == alone == backwards


def test_numbers_differ_by_seed_choice_and_position() -> None:
    keys = [(seed, choice, at) for seed in (-1, 0, 2**63) for choice in (0, 1) for at in (0, 1)]
    assert len({random_bits(*key) for key in keys}) == len(keys)


def test_numbers_are_those_of_philox() -> None:
    """The generator's published answer to a counter and key of zeros."""
    assert random_bits(0, 0, 0) == 0xE169C58D_6627E8D5


@pytest.mark.parametrize("total", [1, 1000, 2**48 + 1])
def test_part_of_a_total_lies_within_it(total: int) -> None:
    assert [part_of(total, fraction(share)) for share in (0.0, 0.5)] == [0, total // 2]
    assert part_of(total, fraction(1.0)) == total - 1


def test_certain_token_is_drawn_whatever_the_number() -> None:
    certain = torch.full((5,), -torch.inf)
    certain[4] = 0.0
    assert set(draw_many(200, certain)) == {4}


def test_what_is_no_number_is_never_drawn() -> None:
    logits = torch.tensor([torch.nan, 1.0, -torch.inf, 1.0])
    assert set(draw_many(200, logits)) == set(draw_many(200, logits, top_p=0.9)) == {1, 3}


@pytest.mark.parametrize("settings", [{}, {"top_k": 2}, {"min_p": 0.5}, {"temperature": 0.0}])
def test_without_a_likely_token_the_first_number_is_drawn(settings: dict[str, Any]) -> None:
    none = torch.full((5,), -torch.inf)
    assert set(draw_many(20, none, **settings)) == {0}
    none[:2] = torch.nan
    rules = {"frequency_penalty": 1.0} | settings  # plain greed takes what is no number
    assert set(draw_many(20, none, **rules)) == {2}


def test_of_equal_tokens_the_first_are_kept() -> None:
    assert set(draw_many(200, torch.zeros(9), top_k=3)) == {0, 1, 2}


def test_what_is_no_number_is_not_drawn_whoever_is_beside() -> None:
    logits = torch.tensor([[1.0, torch.nan, 3.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    greedy = Draw(SamplingParams(seed=0, max_tokens=1, temperature=0), 1, [0])
    by_chance = Draw(SamplingParams(seed=0, max_tokens=1, top_k=1), 1, [0])
    assert sample(logits, [greedy, greedy]) == sample(logits, [greedy, by_chance]) == [2, 3]
