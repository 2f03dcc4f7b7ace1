"""How likely the drawn tokens of a step were, as csrc/cuda/rate_token.cu writes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
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


def unpack(ratings: Tensor) -> npt.NDArray[Any]:
    """ratings: (R, RATING_WORDS) int32 of the host → (R,) of which `logprobs_of` takes one."""
    return ratings.numpy().view(_RATING)[:, 0]


def logprobs_of(rating: Any, num_top: int) -> TokenLogprobs:
    top_ids = rating["top_ids"][:num_top]
    top_ids = top_ids[top_ids >= 0]  # a vocabulary may have fewer
    top_logprobs = rating["top_logprobs"][: len(top_ids)]
    return TokenLogprobs(
        float(rating["logprob"]), int(rating["rank"]), top_ids.tolist(), top_logprobs.tolist()
    )
