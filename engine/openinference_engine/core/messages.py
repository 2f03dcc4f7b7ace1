"""What the API process and the core process say to each other, as msgpack over one socket pair."""

from __future__ import annotations

import msgspec

from openinference_engine.request import FailureReason, FinishReason, SamplingParams
from openinference_engine.results import TokenLogprobs


class Submit(msgspec.Struct, frozen=True, tag=True):
    """Start a sequence; `output_ids` were generated elsewhere already.

    `priority`: its class, the smaller the more urgent. `salt`: prefixes are shared only among
    requests of the same.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = []
    priority: int = 0
    salt: bytes = b""


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End sequences that nobody waits for any more."""

    request_ids: list[str]


class Compile(msgspec.Struct, frozen=True, tag=True):
    """Make a grammar ready and say whether it is sound."""

    number: int
    grammar: str


class Compiled(msgspec.Struct, frozen=True, tag=True):
    """The answer to `Compile`."""

    number: int
    error: str | None


class Token(msgspec.Struct, frozen=True, array_like=True):
    request_id: str
    token_id: int
    finish_reason: FinishReason | None
    num_cached_tokens: int
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: list[TokenLogprobs] = []  # with the first token
    embedding: bytes | None = None
    queue_seconds: float = 0.0  # before its first step; with the first token


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A sequence that ended without its answer."""

    request_id: str
    reason: FailureReason


class Status(msgspec.Struct, frozen=True):
    """The engine as of the last step."""

    running: int = 0
    waiting: int = 0
    queued_tokens: int = 0
    kv_usage: float = 0.0
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    preemptions: int = 0


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """The model is ready; sent once.

    paths: kind of op → which kernels compute it, where there is a choice.
    """

    max_model_len: int
    num_blocks: int
    kernel_path: str
    paths: dict[str, str]
    seconds: dict[str, float]  # start-up stage → how long it took


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """Another pod of the engine's group was told to terminate: all of it is to drain."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """Tokens drawn by a step, and the state behind it."""

    tokens: list[Token]
    status: Status
    num_step_tokens: int = 0
    failures: list[Failure] = []


ToCore = Submit | Abort | Compile
FromCore = Loaded | Progress | Compiled | Leaving
