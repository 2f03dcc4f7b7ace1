"""Tokens rated by the kernel are as likely as `sampling.rate` says on a CPU, of the same logits.

It adds in float32 and the CPU in float64: numbers agree within BOUND, ranks and ids are equal.
"""

import math

import pytest
import torch
from openinference_engine.ratings import MOST_TOP, RATING_WORDS, unpack
from openinference_engine.request import SamplingParams
from openinference_engine.rules import pack_rule
from openinference_engine.sampling import rate

BOUND = {"abs": 1e-5, "rel": 2**-22}  # float32 has 24 bits
UNWRITTEN = -7


def rated_by_kernel(place, logits, tokens, num_tops, positions=None):
    """What the kernel wrote of each row, (R, RATING_WORDS)."""
    rows = len(logits)
    draws = [SamplingParams(seed=1, max_tokens=9, num_logprobs=count) for count in num_tops]
    rules = torch.stack([torch.from_numpy(pack_rule(draw, 1).copy()) for draw in draws])
    ratings = torch.full((rows, RATING_WORDS), UNWRITTEN, dtype=torch.int32, device=place.device)
    positions = torch.tensor(positions or [5] * rows, dtype=torch.int32)
    tokens = torch.tensor(tokens, dtype=torch.int32)
    inputs = (one.to(place.device) for one in (logits, tokens, positions, rules))
    place.ops.rate_token(*inputs, ratings, place.stream)
    return ratings.cpu()


def check(place, logits, tokens, num_tops):
    ratings = unpack(rated_by_kernel(place, logits, tokens, num_tops), num_tops)
    for row, token, num_top, mine in zip(logits, tokens, num_tops, ratings, strict=True):
        (theirs,) = rate(row[None], [token], num_top)
        assert (mine.rank, mine.top_ids) == (theirs.rank, theirs.top_ids)
        assert mine.logprob == pytest.approx(theirs.logprob, **BOUND)
        assert mine.top_logprobs == pytest.approx(theirs.top_logprobs, **BOUND)


@pytest.mark.parametrize("vocabulary", [1, 19, 33, 1031, 5003])
def test_any_number_of_tokens_is_rated_as_on_a_cpu(place, vocabulary):
    """The token may be the likeliest, the least likely or any other one."""
    rows, random = MOST_TOP + 1, torch.Generator().manual_seed(5)
    scales = torch.linspace(0.1, 9, rows)[:, None]
    logits = torch.randn(rows, vocabulary, generator=random) * scales
    tokens = torch.randint(0, vocabulary, (rows,), generator=random)
    tokens[0], tokens[1] = logits[0].argmax(), logits[1].argmin()
    check(place, logits, tokens.tolist(), num_tops=range(rows))


@pytest.mark.parametrize("vocabulary", [7, 2048, 2049])
def test_of_equal_tokens_the_lower_id_comes_first(place, vocabulary):
    """Zeros of either sign are equal, too."""
    random = torch.Generator().manual_seed(5)
    logits = torch.randint(-1, 2, (4, vocabulary), generator=random).float()
    logits[2] = 0.0
    logits[2, ::2] = -0.0
    logits[3] = torch.arange(vocabulary)  # each run of ids ends with its likeliest
    check(place, logits, [0, 1, vocabulary - 1, 3], [20, 5, 20, 20])


@pytest.mark.parametrize("fill", [-math.inf, math.nan, math.inf])
def test_what_is_no_number_is_rated_as_on_a_cpu(place, fill):
    logits = torch.full((3, 97), fill)
    logits[1, 40:43] = torch.tensor([1.0, 2.0, -math.inf])
    logits[2, ::3] = torch.randn(33, generator=torch.Generator().manual_seed(5))
    check(place, logits, [3, 41, 1], [4, 20, 12])


def test_rows_that_ask_for_nothing_keep_what_is_there(place):
    logits = torch.randn(4, 99, generator=torch.Generator().manual_seed(5))
    num_tops, positions = [None, 2, 2, 2], [5, 5, -1, 5]
    ratings = rated_by_kernel(place, logits, [3, 3, 3, -1], num_tops, positions)
    assert (ratings[[0, 2, 3]] == UNWRITTEN).all()
    ranks = [None if one is None else one.rank for one in unpack(ratings, num_tops)]
    assert ranks[:2] == [None, rate(logits[1:2], [3], 0)[0].rank]
    assert (ratings[1, 4:22] == UNWRITTEN).all()  # no more ids than two


def test_a_rating_does_not_depend_on_the_other_rows(place):
    logits = torch.randn(5, 3001, generator=torch.Generator().manual_seed(5))
    together = rated_by_kernel(place, logits, [1, 2, 3, 4, 5], [3] * 5)
    alone = rated_by_kernel(place, logits[2:3].clone(), [3], [3])
    assert torch.equal(together[2:3], alone)
