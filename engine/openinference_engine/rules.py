"""How a row draws its next token on the device and rates it, packed as csrc/cuda/rule.cuh says."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt

from openinference_engine.chance import FULL_WEIGHT, fraction, part_of
from openinference_engine.ratings import MOST_TOP
from openinference_engine.request import SamplingParams
from openinference_engine.sampling import keeps_likeliest
from openinference_engine.step import Draw

RULE_WORDS = 16
MOST_BIASES = 320  # of a row; OpenAI takes 300
_RULE = struct.Struct("<ifiiIIIiQIfffii")
_EVERY_TOKEN = 2**31 - 1  # top_k that admits all
_WORD = 2**32 - 1


def is_drawn_on_device(draw: Draw) -> bool:
    """Whether the kernels draw this token; all that they cannot do, `sampling` does from logits."""
    params = draw.params
    ends_early = params.stop_token_ids and draw.num_outputs < params.min_tokens
    return not (
        ends_early
        or draw.constraint is not None
        or (params.num_logprobs or 0) > MOST_TOP
        or params.allowed_token_ids
        or params.bad_words
        or len(params.logit_bias) > MOST_BIASES
    )


def counts_history(params: SamplingParams) -> bool:
    """Whether a draw depends on the tokens before it."""
    penalties = params.presence_penalty, params.frequency_penalty
    return params.repetition_penalty != 1 or any(penalties)


def pack_rule(params: SamplingParams, num_prompt: int) -> npt.NDArray[np.int32]:
    """(RULE_WORDS,): but for the last, zeros where the likeliest token is right as it is."""
    rates = 0 if params.num_logprobs is None else 1 + params.num_logprobs
    if keeps_likeliest(params):
        return np.array([0] * (RULE_WORDS - 1) + [rates], np.int32)
    top_p = max(fraction(params.top_p), 1) if params.top_p < 1 else 0
    least_weight = part_of(FULL_WEIGHT, fraction(params.min_p)) if params.min_p else 0
    packed = _RULE.pack(
        1,
        params.temperature,
        params.top_k or _EVERY_TOKEN,
        num_prompt,
        params.seed & _WORD,
        params.seed >> 32 & _WORD,
        params.choice,
        len(params.logit_bias),
        top_p,
        least_weight,
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
        counts_history(params),
        rates,
    )
    return np.frombuffer(packed, np.int32)


def pack_biases(params: SamplingParams) -> npt.NDArray[np.int32]:
    """(2 · biases,): each token's id, and the bits of the float32 that its logit gets more."""
    packed = np.empty((len(params.logit_bias), 2), np.int32)
    packed[:, 0] = list(params.logit_bias)
    packed[:, 1] = np.array(list(params.logit_bias.values()), np.float32).view(np.int32)
    return packed.ravel()
