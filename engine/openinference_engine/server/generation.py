"""One request inside the server: its prompts, its choices, and the pieces they bring.

Between HTTP (`openai.py`) and the core: knows ids, parameters and folds, not the shape of answers.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from openinference_engine.core.messages import Submit, Token
from openinference_engine.fold import AnswerEnd, OutputFold
from openinference_engine.parsers.reading import Reading
from openinference_engine.request import SamplingParams
from openinference_engine.server.encoded_prompt import EncodedPrompt
from openinference_engine.server.logprobs import name_tokens
from openinference_engine.server.metrics import Timing
from openinference_engine.server.params import (
    check_in_vocabulary,
    max_tokens_behind,
    sampling_params,
)
from openinference_engine.server.piece import Piece
from openinference_engine.server.schema import GenerationRequest
from openinference_engine.server.state import ServerState
from openinference_engine.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True)
class Choice:
    """One of the answers: its prompt, what was resumed of it, its fold, its moments."""

    index: int
    prompt: EncodedPrompt
    echoed: str  # what its text begins with, until it was said
    params: SamplingParams
    fold: OutputFold
    resumed_ids: list[int]
    timing: Timing

    def take(self, token: Token, tokenizer: Tokenizer) -> Piece:
        offset = self.fold.num_characters
        delta = self.fold.feed(token.token_id)
        parts = delta.parts
        echoed, self.echoed = self.echoed, ""
        piece = Piece(
            self.index,
            echoed + parts.text,
            parts.reasoning,
            parts.calls,
            delta.finish_reason,
            [token.token_id],
        )
        if token.logprobs is not None:
            piece.rated = [name_tokens(tokenizer, token.token_id, token.logprobs, offset)]
        return piece


class Generation:
    """The constructor raises RequestError if the request does not fit the model."""

    def __init__(
        self,
        state: ServerState,
        request: GenerationRequest,
        prompts: list[EncodedPrompt],
        grammar: str,
        reading: Reading,
        prefix: str,
    ) -> None:
        resume = request.resume
        self.id = resume.id if resume else f"{prefix}-{secrets.token_hex(12)}"
        self.created = resume.created if resume else int(time.time())
        self.prompts = prompts
        self.call_id_length = reading.call_format.call_id_length if reading.call_format else 0
        self.has_reasoning = reading.has_reasoning
        self.rates_prompt = request.prompt_logprobs is not None
        self._num_cached_elsewhere = resume.cached_tokens if resume else 0
        self._state = state
        self._tokenizer = state.front_or_refuse.tokenizer
        self._priority = request.priority
        self._salt = request.cache_salt.encode()
        self.shows_token_ids = request.return_token_ids
        self.choices = [
            self._choice(index, prompt, params, request, reading)
            for index, (prompt, params) in enumerate(self._asked(request, grammar))
        ]

    @property
    def num_cached_tokens(self) -> int:
        """Of the prompts, in the cache of the engine where the answer to each began."""
        return self._num_cached_elsewhere + sum(p.num_cached_tokens for p in self.prompts)

    @property
    def usage(self) -> dict[str, Any]:
        num_inputs = sum(len(prompt.token_ids) for prompt in self.prompts)
        num_outputs = sum(choice.fold.num_tokens for choice in self.choices)
        usage = {
            "prompt_tokens": num_inputs,
            "completion_tokens": num_outputs,
            "total_tokens": num_inputs + num_outputs,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }
        if self.has_reasoning:
            num_thoughts = sum(choice.fold.num_reasoning_tokens for choice in self.choices)
            usage["completion_tokens_details"] = {"reasoning_tokens": num_thoughts}
        return usage

    @property
    def finish_reasons(self) -> list[AnswerEnd | None]:
        return [choice.fold.finish_reason for choice in self.choices]

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.choices[0].timing.arrived

    @property
    def first_token_seconds(self) -> float | None:
        """From arrival to the first token of any choice; None before."""
        moments = [c.timing.first_token for c in self.choices if c.timing.first_token is not None]
        return min(moments) - self.choices[0].timing.arrived if moments else None

    def call_id(self, choice: int, index: int) -> str:
        """Of a tool call: the same on every replica that goes on with this answer."""
        digest = hashlib.sha256(f"{self.id}/{choice}/{index}".encode()).hexdigest()
        return digest[: self.call_id_length]

    async def run(self) -> AsyncGenerator[Piece, None]:
        """Pieces of all choices as they come, until each has its finish reason."""
        for choice in self.choices:
            if choice.fold.finish_reason is not None:
                yield Piece(choice.index, finish_reason=choice.fold.finish_reason)
        self._state.metrics.asked(len(self.choices), self.choices[0].params.max_tokens)
        unfinished = [choice for choice in self.choices if choice.fold.finish_reason is None]
        # The core's own names: a resumed answer keeps its public id, and the attempt before it may
        # still run in this very core.
        attempt = secrets.token_hex(8)
        by_id = {f"{attempt}/{choice.index}": choice for choice in unfinished}
        submits = [self._submit(request_id, choice) for request_id, choice in by_id.items()]
        try:
            async with aclosing(self._state.core.stream(submits)) as tokens:
                async for token in tokens:
                    choice = by_id[token.request_id]
                    self._count_prompt(choice.prompt, token)
                    if token.prompt_logprobs:
                        choice.prompt.rate(token.prompt_logprobs)
                    choice.timing.queue_seconds += token.queue_seconds
                    self._state.metrics.token(choice.timing, time.monotonic())
                    piece = choice.take(token, self._tokenizer)
                    if piece.finish_reason is not None:  # the core knows no stop strings
                        self._state.core.abort({token.request_id})
                    yield piece
        finally:
            self._count_answers(unfinished)

    async def collect(self) -> list[Piece]:
        """The whole answer of each choice."""
        answers = [Piece(index) for index in range(len(self.choices))]
        async with aclosing(self.run()) as pieces:
            async for piece in pieces:
                answers[piece.choice].extend(piece)
        return answers

    def _asked(
        self, request: GenerationRequest, grammar: str
    ) -> Iterator[tuple[EncodedPrompt, SamplingParams]]:
        """What each choice answers and how, those of a prompt together.

        Its number, from which it is drawn, counts answers to equal prompts only: a prompt among
        others is answered as it would be alone, and one that is repeated as if more were asked.
        """
        numbers: Counter[tuple[int, ...]] = Counter()
        shared, room = sampling_params(self._state, request, grammar), self._state.max_model_len
        for prompt in self.prompts:
            max_tokens = max_tokens_behind(request, len(prompt.token_ids), room)
            params = msgspec.structs.replace(shared, max_tokens=max_tokens)
            first = numbers[tuple(prompt.token_ids)]
            numbers[tuple(prompt.token_ids)] += request.n
            for number in range(first, first + request.n):
                yield prompt, _of_choice(params, number, rates_prompt=number == first)

    def _choice(
        self,
        index: int,
        prompt: EncodedPrompt,
        params: SamplingParams,
        request: GenerationRequest,
        reading: Reading,
    ) -> Choice:
        resumed_ids = request.resume.token_ids.get(str(index), []) if request.resume else []
        vocab_size = self._state.front_or_refuse.vocab_size
        check_in_vocabulary("openinference.resume.token_ids", resumed_ids, vocab_size)
        prompt.is_resumed = prompt.is_resumed or bool(resumed_ids)
        echoed = prompt.text if request.echoes and not resumed_ids else ""
        fold = OutputFold(self._tokenizer, params, reading, prompt.token_ids)
        fold.replay(resumed_ids)
        timing = Timing(time.monotonic())
        return Choice(index, prompt, echoed, params, fold, resumed_ids, timing)

    def _submit(self, request_id: str, choice: Choice) -> Submit:
        return Submit(
            request_id,
            choice.prompt.token_ids,
            choice.params,
            choice.resumed_ids,
            self._priority,
            self._salt,
        )

    def _count_prompt(self, prompt: EncodedPrompt, token: Token) -> None:
        """The first token tells what the prefix cache saved."""
        if prompt.is_read:
            return
        prompt.is_read = True
        if not prompt.is_resumed:
            prompt.num_cached_tokens = token.num_cached_tokens
        self._state.metrics.prompt(len(prompt.token_ids), token.num_cached_tokens)

    def _count_answers(self, choices: list[Choice]) -> None:
        metrics = self._state.metrics
        metrics.answered(max(choice.fold.num_tokens for choice in self.choices))
        for choice in choices:
            metrics.finished(
                choice.timing,
                choice.fold.finish_reason or "abort",
                len(choice.prompt.token_ids),
                choice.fold.num_tokens,
            )


def _of_choice(params: SamplingParams, number: int, *, rates_prompt: bool) -> SamplingParams:
    num_prompt_logprobs = params.num_prompt_logprobs if rates_prompt else None
    return msgspec.structs.replace(params, choice=number, num_prompt_logprobs=num_prompt_logprobs)
