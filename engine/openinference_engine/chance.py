"""Drawing as arithmetic on integers, the same on every device: what csrc/cuda/draw_token.cu does.

A token's weight is its probability relative to the likeliest one's, as a multiple of 2⁻³¹. Sums of
integers do not depend on their order, so a draw depends on its logits and its key alone: not on how
many threads add, nor on the batch around it.
"""

from __future__ import annotations

import torch
from torch import Tensor

FULL_WEIGHT = 1 << 31  # of the likeliest token
_WORD = (1 << 32) - 1
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_INCREMENTS = 0x9E3779B9, 0xBB67AE85


def random_bits(seed: int, choice: int, position: int) -> int:
    """64 bits that depend on the key alone: Philox4x32-10 (doi.org/10.1145/2063384.2063405)."""
    words = position & _WORD, choice & _WORD, 0, 0
    keys = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * words[0], _MULTIPLIERS[1] * words[2]
        words = (
            second >> 32 ^ words[1] ^ keys[0],
            second & _WORD,
            first >> 32 ^ words[3] ^ keys[1],
            first & _WORD,
        )
        keys = (keys[0] + _INCREMENTS[0]) & _WORD, (keys[1] + _INCREMENTS[1]) & _WORD
    return words[0] | words[1] << 32


def fraction(value: float) -> int:
    """A number from 0 to 1 as a multiple of 2⁻⁶⁴, 1 as the largest of them."""
    return min(int(value * 2.0**64), (1 << 64) - 1)


def part_of(total: int, share: int) -> int:
    """`share` of the total, a multiple of 2⁻⁶⁴, rounded down."""
    return total * share >> 64


def likeliest(logits: Tensor) -> int:
    """logits: (vocab,) → the lowest id of the largest logit; a number, if there is one."""
    least = torch.finfo(logits.dtype).min
    return int(logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=least).argmax())


def weights_of(logits: Tensor, temperature: float) -> Tensor:
    """logits: (vocab,) float32 → int64, 0 to FULL_WEIGHT; what is no number weighs nothing."""
    numbers = logits.nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    relative = ((numbers - numbers.max()) / temperature).exp()
    return (relative * FULL_WEIGHT).round().nan_to_num(0).long()


def keep_head(weights: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The weights of the likeliest tokens that all three leave, at least one; the others' are 0.

    Of tokens that weigh the same, the lower ids come first.
    """
    ordered, token_ids = weights.sort(descending=True, stable=True)
    size = min(top_k or len(ordered), len(ordered))
    if top_p < 1:
        sums = ordered.cumsum(0)
        limit = max(part_of(int(sums[-1]), fraction(top_p)), 1)
        size = min(size, int((sums - ordered < limit).sum()))
    if min_p:
        size = min(size, int((ordered >= part_of(FULL_WEIGHT, fraction(min_p))).sum()))
    head = token_ids[: max(size, 1)]
    return torch.zeros_like(weights).index_copy_(0, head, weights[head])


def pick(weights: Tensor, bits: int) -> int | None:
    """The token at which the running sum of weights, by id, passes `bits` · 2⁻⁶⁴ of their total.

    None where nothing weighs anything.
    """
    sums = weights.cumsum(0)
    total = int(sums[-1])
    return int(torch.searchsorted(sums, part_of(total, bits), right=True)) if total else None
