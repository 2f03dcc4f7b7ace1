"""What a step brings back, beside the cache it filled: tokens, and how likely they were.

Knows nothing of torch. Log-probabilities are those of the model itself, before temperature,
penalties and filters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """How likely a token was, and which tokens were likeliest in its place, the best first."""

    logprob: float
    rank: int  # 1: no other token was likelier
    top_ids: list[int] = []
    top_logprobs: list[float] = []


@dataclass(frozen=True, slots=True)
class StepResult:
    """One token for each chunk that draws, in order.

    logprobs: of these tokens, None where nobody asked.
    prompt_logprobs: for each chunk with targets, in order, those of its targets.
    embeddings: one for each token drawn, None where nobody asked; (hidden,) float32 as bytes.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None] = field(default_factory=list)
    prompt_logprobs: list[list[TokenLogprobs]] = field(default_factory=list)
    embeddings: list[bytes | None] = field(default_factory=list)
