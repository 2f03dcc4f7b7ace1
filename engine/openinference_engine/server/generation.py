"""One request inside the server: its prompt, its choices, and the pieces they bring.

Between HTTP (`openai.py`) and the core: knows ids, parameters and folds, not the shape of answers.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import msgspec

from openinference_engine.core.messages import Submit, Token
from openinference_engine.fold import AnswerEnd, OutputFold
from openinference_engine.parsers.reading import Reading
from openinference_engine.request import SamplingParams
from openinference_engine.results import TokenLogprobs
from openinference_engine.server.logprobs import name_tokens
from openinference_engine.server.metrics import Timing
from openinference_engine.server.params import check_in_vocabulary, sampling_params
from openinference_engine.server.piece import Piece, RatedToken
from openinference_engine.server.schema import GenerationRequest
from openinference_engine.server.state import ServerState
from openinference_engine.tokenizer.tokenizer import Tokenizer


@dataclass(slots=True)
class Choice:
    """One of the answers: what was resumed of it, its fold, its moments."""

    params: SamplingParams
    fold: OutputFold
    resumed_ids: list[int]
    timing: Timing

    def take(self, token: Token, tokenizer: Tokenizer) -> Piece:
        offset = self.fold.num_characters
        delta = self.fold.feed(token.token_id)
        parts = delta.parts
        piece = Piece(
            self.params.choice,
            parts.text,
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
        prompt_ids: list[int],
        grammar: str,
        reading: Reading,
        prefix: str,
    ) -> None:
        resume = request.resume
        self.id = resume.id if resume else f"{prefix}-{secrets.token_hex(12)}"
        self.created = resume.created if resume else int(time.time())
        self.prompt_ids = prompt_ids
        self.call_id_length = reading.call_format.call_id_length if reading.call_format else 0
        self.has_reasoning = reading.has_reasoning
        self.num_cached_tokens = resume.cached_tokens if resume else 0
        self._is_resumed = resume is not None
        self.rates_prompt = request.prompt_logprobs is not None
        self.prompt_rated: list[RatedToken] = []  # the tokens behind the first
        self._state = state
        self._tokenizer = state.front_or_refuse.tokenizer
        self._priority = request.priority
        self._salt = request.cache_salt.encode()
        self.shows_token_ids = request.return_token_ids
        params = sampling_params(state, request, len(prompt_ids), grammar)
        resumed_ids = resume.token_ids if resume else {}
        self.choices = [
            self._choice(
                _of_choice(params, number),
                reading,
                resumed_ids.get(str(number), []),
            )
            for number in range(request.n)
        ]

    @property
    def prompt_text(self) -> str:
        return self._tokenizer.decode(self.prompt_ids)

    @property
    def prompt_start(self) -> bytes:
        """The prompt's first token, which nothing rates."""
        return self._tokenizer.token_bytes(self.prompt_ids[0])

    @property
    def usage(self) -> dict[str, Any]:
        num_outputs = sum(choice.fold.num_tokens for choice in self.choices)
        usage = {
            "prompt_tokens": len(self.prompt_ids),
            "completion_tokens": num_outputs,
            "total_tokens": len(self.prompt_ids) + num_outputs,
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
                yield Piece(choice.params.choice, finish_reason=choice.fold.finish_reason)
        self._state.metrics.asked(len(self.choices), self.choices[0].params.max_tokens)
        unfinished = [choice for choice in self.choices if choice.fold.finish_reason is None]
        # The core's own names: a resumed answer keeps its public id, and the attempt before it may
        # still run in this very core.
        attempt = secrets.token_hex(8)
        by_id = {f"{attempt}/{choice.params.choice}": choice for choice in unfinished}
        submits = [self._submit(request_id, choice) for request_id, choice in by_id.items()]
        try:
            async with aclosing(self._state.core.stream(submits)) as tokens:
                async for token in tokens:
                    self._count_prompt(token)
                    if token.prompt_logprobs:
                        self._rate_prompt(token.prompt_logprobs)
                    choice = by_id[token.request_id]
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

    def _choice(self, params: SamplingParams, reading: Reading, resumed_ids: list[int]) -> Choice:
        vocab_size = self._state.front_or_refuse.vocab_size
        check_in_vocabulary("openinference.resume.token_ids", resumed_ids, vocab_size)
        fold = OutputFold(self._tokenizer, params, reading)
        fold.replay(resumed_ids)
        return Choice(params, fold, resumed_ids, Timing(time.monotonic()))

    def _submit(self, request_id: str, choice: Choice) -> Submit:
        return Submit(
            request_id,
            self.prompt_ids,
            choice.params,
            choice.resumed_ids,
            self._priority,
            self._salt,
        )

    def _rate_prompt(self, logprobs: list[TokenLogprobs]) -> None:
        offset = 0
        for before, token_id, rated in zip(
            self.prompt_ids[:-1], self.prompt_ids[1:], logprobs, strict=True
        ):
            offset += self._num_characters(before)
            self.prompt_rated.append(name_tokens(self._tokenizer, token_id, rated, offset))

    def _num_characters(self, token_id: int) -> int:
        """Of the text, those that begin with this token; special ones are not shown."""
        is_shown = bool(self._tokenizer.decode([token_id]))
        return is_shown * sum(byte & 0xC0 != 0x80 for byte in self._tokenizer.token_bytes(token_id))

    def _count_prompt(self, token: Token) -> None:
        """The first token tells what the prefix cache saved."""
        if all(choice.timing.first_token is None for choice in self.choices):
            if not self._is_resumed:
                self.num_cached_tokens = token.num_cached_tokens
            self._state.metrics.prompt(len(self.prompt_ids), token.num_cached_tokens)

    def _count_answers(self, choices: list[Choice]) -> None:
        metrics = self._state.metrics
        metrics.longest_output.observe(max(choice.fold.num_tokens for choice in self.choices))
        for choice in choices:
            metrics.finished(
                choice.timing,
                choice.fold.finish_reason or "abort",
                len(self.prompt_ids),
                choice.fold.num_tokens,
            )


def _of_choice(params: SamplingParams, choice: int) -> SamplingParams:
    """The prompt is rated once, with the first choice."""
    num_prompt_logprobs = params.num_prompt_logprobs if choice == 0 else None
    return msgspec.structs.replace(params, choice=choice, num_prompt_logprobs=num_prompt_logprobs)
