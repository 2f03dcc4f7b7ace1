"""From a validated request to what the core samples by: the checks that depend on the model."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from openinference_engine.errors import ModelNotFound, RequestError
from openinference_engine.request import SamplingParams
from openinference_engine.server.schema import ChatRequest, CompletionRequest, GenerationRequest
from openinference_engine.server.state import ServerState
from openinference_engine.tokenizer.tokenizer import Tokenizer

_COLDEST = 1e-5  # logits divided by less overflow; the likeliest token is meant


def sampling_params(state: ServerState, request: GenerationRequest, grammar: str) -> SamplingParams:
    """What the answers to all prompts share; made once, for rules may name every token.

    `max_tokens` is for `max_tokens_behind` to say. Raises RequestError if a rule does not fit the
    model.
    """
    front = state.front_or_refuse
    check_in_vocabulary("stop_token_ids", request.stop_token_ids, front.vocab_size)
    ends = frozenset() if request.ignore_eos else front.tokenizer.end_token_ids
    return SamplingParams(
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        max_tokens=1,
        min_tokens=request.min_tokens,
        stop_token_ids=ends.union(request.stop_token_ids),
        temperature=request.temperature if request.temperature >= _COLDEST else 0.0,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=_logit_bias(request.logit_bias, front.vocab_size),
        allowed_token_ids=_allowed_token_ids(request.allowed_token_ids, front.vocab_size),
        bad_words=_bad_words(request.bad_words, front.tokenizer),
        grammar=grammar,
        num_logprobs=request.num_logprobs,
        num_prompt_logprobs=request.num_prompt_logprobs,
    )


def check_model(state: ServerState, name: str | None) -> None:
    """Raises ModelNotFound unless the request means this model; None means any."""
    if name not in (None, state.model_name):
        raise ModelNotFound(
            f"model: {name!r} is not served here; use {state.model_name!r}", "model"
        )


def max_tokens_behind(request: GenerationRequest, num_prompt: int, max_model_len: int) -> int:
    """Of an answer to a prompt of so many tokens. Raises RequestError if they do not fit."""
    max_tokens = _max_tokens(request, num_prompt, max_model_len)
    if request.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens: {request.min_tokens} exceeds max_tokens {max_tokens}; lower it",
            "min_tokens",
        )
    return max_tokens


def _max_tokens(request: GenerationRequest, num_prompt: int, max_model_len: int) -> int:
    room = max_model_len - num_prompt
    field, wanted = "max_tokens", request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        field, wanted = "max_completion_tokens", request.max_completion_tokens
    if wanted is None:
        # OpenAI's default of plain completions is 16; a chat may use the rest of the context.
        return min(16, room) if isinstance(request, CompletionRequest) else room
    if wanted > room:
        raise RequestError(
            f"{field}: {wanted} does not fit behind the prompt's {num_prompt} tokens in a context "
            f"of {max_model_len}; use at most {room}",
            field,
        )
    return wanted


def _logit_bias(bias: dict[str, float], vocab_size: int) -> dict[int, float]:
    if not all(key.isdecimal() and len(key) < 10 for key in bias):
        raise RequestError('logit_bias: keys must be token ids, as in {"42": -100}', "logit_bias")
    by_id = {int(key): value for key, value in bias.items()}
    check_in_vocabulary("logit_bias", by_id, vocab_size)
    return by_id


def _allowed_token_ids(token_ids: list[int] | None, vocab_size: int) -> frozenset[int]:
    if token_ids == []:
        raise RequestError(
            "allowed_token_ids: [] allows no token at all; name some or remove the field",
            "allowed_token_ids",
        )
    check_in_vocabulary("allowed_token_ids", token_ids or (), vocab_size)
    return frozenset(token_ids or ())


def _bad_words(words: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Each word as it is spelt at the beginning of a text and behind a blank."""
    spelt = [
        tokenizer.encode(blank + word, adds_special_tokens=False)
        for word in words
        for blank in ("", " ")
    ]
    return [list(token_ids) for token_ids in dict.fromkeys(map(tuple, spelt)) if token_ids]


def check_in_vocabulary(field: str, token_ids: Iterable[int], vocab_size: int) -> None:
    """Raises RequestError if an id is no token of the model."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise RequestError(
                f"{field}: {token_id} is no token of this model; use 0 to {vocab_size - 1}", field
            )
