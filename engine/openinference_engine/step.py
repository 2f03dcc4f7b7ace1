"""What a step computes, as the scheduler says it and runners read it: plain data, no torch.

Blocks and history are the request's own lists, no copies: they may grow while a step is under way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from openinference_engine.request import Constraint, Request, SamplingParams


@dataclass(frozen=True, slots=True)
class Draw:
    """What drawing the next token of a sequence depends on, apart from its logits."""

    params: SamplingParams
    num_prompt: int
    history: list[int]  # prompt and outputs so far
    constraint: Constraint | None = None

    @property
    def num_outputs(self) -> int:
        return len(self.history) - self.num_prompt


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive tokens of one request to compute in this step."""

    request_id: str
    token_ids: list[int]
    start: int  # position of the first of them
    block_ids: list[int]  # hold all positions up to the last of them, where the first sees them
    draw: Draw | None  # None: more of the prompt follows in a later step
    targets: list[int] = field(default_factory=list)
    """Tokens whose log-probabilities are wanted behind the first positions of the chunk."""
    num_top: int = 0
    """How many of the likeliest tokens are wanted beside each target."""


@dataclass(frozen=True, slots=True)
class Step:
    chunks: list[Chunk]

    @property
    def num_tokens(self) -> int:
        return sum(len(chunk.token_ids) for chunk in self.chunks)

    @property
    def num_decodes(self) -> int:
        return sum(len(chunk.token_ids) == 1 for chunk in self.chunks)


def next_chunk(request: Request, length: int) -> Chunk:
    """So many of the tokens that a request misses, from the first on."""
    start, end = request.num_computed, request.num_computed + length
    draws = end == request.num_tokens
    return Chunk(
        request_id=request.id,
        token_ids=request.token_ids[start:end],
        start=start,
        block_ids=request.block_ids,
        draw=_draw(request) if draws else None,
        targets=request.targets(start, end),
        num_top=request.params.num_prompt_logprobs or 0,
    )


def _draw(request: Request) -> Draw:
    return Draw(request.params, request.num_prompt, request.token_ids, request.constraint)
