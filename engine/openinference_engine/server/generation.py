"""One request inside the server: its prompt, its choices, and the deltas they bring.

Between HTTP (`openai.py`) and the core: knows ids, parameters and folds, not the shape of answers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from openinference_engine.core.messages import Submit
from openinference_engine.errors import RequestError
from openinference_engine.fold import Delta, OutputFold
from openinference_engine.request import SamplingParams
from openinference_engine.server.metrics import Timing
from openinference_engine.server.schema import ChatRequest, CompletionRequest, GenerationRequest
from openinference_engine.server.state import ServerState


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    choice: int
    token_id: int
    delta: Delta


class Generation:
    """Raises RequestError from the constructor if the request cannot be answered."""

    def __init__(
        self, state: ServerState, request: GenerationRequest, prompt_ids: list[int], prefix: str
    ) -> None:
        resume = request.openinference.resume if request.openinference else None
        self.id = resume.id if resume else f"{prefix}-{secrets.token_hex(12)}"
        self.created = resume.created if resume else int(time.time())
        self.prompt_ids = prompt_ids
        self.num_cached_tokens = 0
        self._state = state
        params = sampling_params(state, request, len(prompt_ids))
        self._params = [msgspec.structs.replace(params, choice=n) for n in range(request.n)]
        self.folds = [
            OutputFold(state.loaded_front.tokenizer, params, request.stop_strings)
            for params in self._params
        ]
        self._resumed = [
            [] if resume is None else resume.token_ids.get(str(n), []) for n in range(request.n)
        ]
        for fold, token_ids in zip(self.folds, self._resumed, strict=True):
            fold.replay(token_ids)

    @property
    def usage(self) -> dict[str, object]:
        num_outputs = sum(fold.num_tokens for fold in self.folds)
        return {
            "prompt_tokens": len(self.prompt_ids),
            "completion_tokens": num_outputs,
            "total_tokens": len(self.prompt_ids) + num_outputs,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    async def run(self) -> AsyncIterator[ChoiceDelta]:
        """Deltas of all choices as they come, until each has its finish reason."""
        core, metrics = self._state.core, self._state.metrics
        submits = {submit.request_id: submit for submit in self._submits()}
        timings = {request_id: Timing(time.monotonic()) for request_id in submits}
        counted_prompt = False
        async for token in core.stream(list(submits.values())):
            choice = submits[token.request_id].params.choice
            fold, timing = self.folds[choice], timings[token.request_id]
            if not counted_prompt:
                counted_prompt, self.num_cached_tokens = True, token.num_cached_tokens
                metrics.prompt(len(self.prompt_ids), token.num_cached_tokens)
            metrics.token(timing, time.monotonic())
            delta = fold.feed(token.token_id)
            if delta.finish_reason is not None:
                metrics.finished(timing, delta.finish_reason, len(self.prompt_ids), fold.num_tokens)
                core.abort({token.request_id})
            yield ChoiceDelta(choice, token.token_id, delta)

    def _submits(self) -> list[Submit]:
        return [
            Submit(f"{self.id}/{params.choice}", self.prompt_ids, params, token_ids)
            for params, fold, token_ids in zip(self._params, self.folds, self._resumed, strict=True)
            if fold.finish_reason is None
        ]


def sampling_params(
    state: ServerState, request: GenerationRequest, num_prompt: int
) -> SamplingParams:
    """What the core needs of a request. Raises RequestError for what depends on the model."""
    max_tokens = _max_tokens(request, num_prompt, state.max_model_len)
    if request.min_tokens > max_tokens:
        raise RequestError(
            f"min_tokens: {request.min_tokens} exceeds max_tokens {max_tokens}; lower it",
            "min_tokens",
        )
    vocab_size = state.loaded_front.vocab_size
    ends = frozenset() if request.ignore_eos else state.loaded_front.tokenizer.end_token_ids
    return SamplingParams(
        seed=secrets.randbits(63) if request.seed is None else request.seed,
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        stop_token_ids=ends | _in_vocabulary("stop_token_ids", request.stop_token_ids, vocab_size),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(request.top_k, 0),
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logit_bias=_logit_bias(request.logit_bias, vocab_size),
    )


def _max_tokens(request: GenerationRequest, num_prompt: int, max_model_len: int) -> int:
    room = max_model_len - num_prompt
    field = "messages" if isinstance(request, ChatRequest) else "prompt"
    if room < 1:
        raise RequestError(
            f"{field}: the prompt has {num_prompt} tokens and the context holds {max_model_len} "
            "with the answer; shorten it",
            field,
        )
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
    if not all(key.isdecimal() for key in bias):
        raise RequestError('logit_bias: keys must be token ids, as in {"42": -100}', "logit_bias")
    token_ids = _in_vocabulary("logit_bias", [int(key) for key in bias], vocab_size)
    return {token_id: bias[str(token_id)] for token_id in token_ids}


def _in_vocabulary(field: str, token_ids: list[int], vocab_size: int) -> frozenset[int]:
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise RequestError(
                f"{field}: {token_id} is no token of this model; use 0 to {vocab_size - 1}", field
            )
    return frozenset(token_ids)
