"""How likely the drawn tokens of a step were, as csrc/cuda/rate_token.cu writes it."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from openinference_engine.results import TokenLogprobs

MOST_TOP = 20  # of the likeliest tokens; OpenAI takes as many
_RATING = np.dtype(
    [
        ("logprob", "<f4"),
        ("rank", "<i4"),
        ("top_ids", "<i4", (MOST_TOP,)),
        ("top_logprobs", "<f4", (MOST_TOP,)),
    ]
)
RATING_WORDS = _RATING.itemsize // 4


def unpack(ratings: Tensor, num_tops: list[int | None]) -> list[TokenLogprobs | None]:
    """ratings: (R, RATING_WORDS) int32 of the host; num_tops: of each row, None: no rating."""
    fields = ratings.numpy().view(_RATING)[:, 0]
    columns = [fields[name].tolist() for name in _RATING.fields or ()]
    return [
        None if num_top is None else _logprobs(num_top, *words)
        for num_top, *words in zip(num_tops, *columns, strict=True)
    ]


def _logprobs(
    num_top: int, logprob: float, rank: int, top_ids: list[int], top_logprobs: list[float]
) -> TokenLogprobs:
    token_ids = [one for one in top_ids[:num_top] if one >= 0]  # a vocabulary may have fewer
    return TokenLogprobs(logprob, rank, token_ids, top_logprobs[: len(token_ids)])
