"""A request on its way through the engine: its token ids, how far they are computed, its blocks.

Knows nothing of torch, text or HTTP. One pair of numbers says everything about progress:
`num_computed` of `num_tokens` tokens have their keys and values in the cache. Prefill, chunks,
prefix hits, preemption and a resumed request differ only in where the first number stands.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Protocol

import msgspec

from openinference_engine.results import TokenLogprobs

FinishReason = Literal["stop", "length"]
FailureReason = Literal["error", "expired"]  # computing it failed; it waited too long for a seat


class SamplingParams(msgspec.Struct, frozen=True):
    """How the next token is drawn, and when drawing ends. Neutral values switch a rule off."""

    seed: int
    max_tokens: int
    choice: int = 0  # which of several answers to one prompt this is
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    temperature: float = 1.0  # 0: the most likely token
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    allowed_token_ids: frozenset[int] = frozenset()  # empty: every token
    bad_words: list[list[int]] = []  # sequences of tokens that no output contains
    grammar: str = ""  # that the output follows (see `grammar`); empty: none
    embeds: bool = False  # the state behind the prompt is wanted, not the token
    num_logprobs: int | None = None  # likeliest tokens to name beside each drawn one
    num_prompt_logprobs: int | None = None  # the same for every prompt token but the first

    def finish_reason_after(self, token_id: int, num_outputs: int) -> FinishReason | None:
        """Why the output ends with `token_id` as its `num_outputs`-th token, or None."""
        if token_id in self.stop_token_ids and num_outputs > self.min_tokens:
            return "stop"
        return "length" if num_outputs >= self.max_tokens else None


def due_at(arrived_seconds: float, priority: int, ageing_seconds: float) -> float:
    """Strict priorities with ageing, as one number that never changes.

    Each class (the smaller, the more urgent) counts as arriving `ageing_seconds` later than the
    class before it. So a request that has waited that much longer has caught up with that class,
    nobody starves, and since two requests never swap places, they never preempt back and forth.
    """
    return arrived_seconds + priority * ageing_seconds


class Constraint(Protocol):
    """What the tokens so far allow the next one to be."""

    def accept(self, token_id: int) -> None: ...

    def restrict(self, logits: Any) -> Any: ...


class Request:
    """One sequence. The scheduler owns it; only the named transitions change it."""

    def __init__(
        self,
        request_id: str,
        prompt_ids: list[int],
        params: SamplingParams,
        output_ids: list[int] | None = None,
        salt: bytes = b"",
        due: float = 0.0,
        expires: float = math.inf,
        constraint: Constraint | None = None,
    ) -> None:
        """`output_ids`: what was generated elsewhere already; drawing goes on behind them.

        `due`: the request's place among all others, the smallest first (see `due_at`).
        `expires`: the moment at which it ends unless it has had a seat.
        `constraint`: has accepted `output_ids` already.
        """
        self.id = request_id
        self.due = due
        self.expires = expires
        self.number = 0  # breaks ties of `due`; given by the scheduler
        self.params = params
        self.salt = salt
        self.constraint = constraint
        self.token_ids = prompt_ids + (output_ids or [])
        self.num_prompt = len(prompt_ids)
        self.num_computed = 0
        self.num_cached: int | None = None  # prompt tokens that the prefix cache saved at first
        self.prompt_logprobs: list[TokenLogprobs] = []  # of the tokens behind the first
        self.block_ids: list[int] = []  # by position; the first `num_gone` are not its own any more
        self.num_gone = 0  # blocks that lie before all that its next token sees
        self.block_hashes: list[bytes] = []  # of full blocks, grown on demand

    @property
    def place(self) -> tuple[float, int]:
        """The order in which requests are served; no two are equal, and none ever changes."""
        return self.due, self.number

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_outputs(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def has_begun(self) -> bool:
        """It has had a seat, even if it lost it again."""
        return self.num_cached is not None

    @property
    def num_missing(self) -> int:
        """Tokens to compute before the next one can be drawn; none while a step does that."""
        return len(self.token_ids) - self.num_computed

    @property
    def may_use_cache(self) -> bool:
        """Positions found in the cache are not computed, so nothing can be said about them."""
        return self.params.num_prompt_logprobs is None

    @property
    def held_block_ids(self) -> list[int]:
        return self.block_ids[self.num_gone :]

    def targets(self, start: int, end: int) -> list[int]:
        """Prompt tokens whose probabilities are wanted from the positions before `end`."""
        if self.params.num_prompt_logprobs is None:
            return []
        return self.token_ids[start + 1 : min(end + 1, self.num_prompt)]

    def admit(self, block_ids: list[int], num_cached: int) -> None:
        """Starts with blocks for all its tokens, behind the prefix that the cache holds."""
        self.block_ids = block_ids
        self.num_computed = num_cached
        if self.num_cached is None:
            self.num_cached = min(num_cached, self.num_prompt)

    def preempt(self) -> list[int]:
        """Gives all blocks back; everything is computed again later. Tokens stay."""
        block_ids = self.held_block_ids
        self.block_ids, self.num_gone, self.num_computed = [], 0, 0
        return block_ids

    def leave_behind(self, num_blocks: int) -> list[int]:
        """Of the first `num_blocks` blocks, those that it still holds; it gives them back."""
        block_ids = self.block_ids[self.num_gone : num_blocks]
        self.num_gone += len(block_ids)
        return block_ids

    def advance(self, num_tokens: int) -> None:
        """The next step computes these; those behind them may be given to the step after it."""
        self.num_computed += num_tokens

    def take_prompt_logprobs(self, start: int, logprobs: list[TokenLogprobs]) -> None:
        """Those behind position `start`; what a preempted request computes again is known."""
        known = max(len(self.prompt_logprobs) - start, 0)
        self.prompt_logprobs.extend(logprobs[known:])

    def append(self, token_id: int) -> FinishReason | None:
        """Takes a drawn token; returns why the request ends with it, or None."""
        self.token_ids.append(token_id)
        if self.constraint is not None:
            self.constraint.accept(token_id)
        return self.params.finish_reason_after(token_id, self.num_outputs)
