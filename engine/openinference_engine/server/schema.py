"""The request bodies of the OpenAI API that this engine answers.

A field is here when its behaviour exists; `validation` says what becomes of others.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from openinference_engine.errors import RequestError
from openinference_engine.server.answer_formats import (
    Choices,
    JsonObject,
    JsonSchema,
    StructuredOutputs,
    TextFormat,
)
from openinference_engine.server.conversation import FunctionTool, Message, NamedChoice

Penalty = Annotated[float, Meta(ge=-2, le=2)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
NumLogprobs = Annotated[int, Meta(ge=0, le=20)]
MAX_INPUTS = 2048
Stop = Annotated[str, Meta(min_length=1)]
BadWord = Annotated[str, Meta(min_length=1, max_length=256)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False  # usage so far in every chunk


class Resume(msgspec.Struct, frozen=True):
    """Go on with an answer that began elsewhere: the ids consumed so far, by choice."""

    id: str
    created: int
    token_ids: dict[str, list[int]]
    cached_tokens: Count = 0
    """Of the prompt, where the answer began: what usage tells of it."""


class Internal(msgspec.Struct, frozen=True):
    """What only the router may ask (docs/wire.md). A newer router may say more: that is ignored."""

    stream_token_ids: bool = False
    resume: Resume | None = None


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that chat and plain completions share."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] = 1
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    min_tokens: Count = 0
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] = 0
    min_p: Probability = 0.0
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] = []
    stop_token_ids: list[Count] = []
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] = 1.0
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] = {}
    allowed_token_ids: list[Count] | None = None
    bad_words: Annotated[list[BadWord], Meta(max_length=256)] = []
    prompt_logprobs: NumLogprobs | None = None
    response_format: TextFormat | JsonObject | JsonSchema | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0  # the smaller, the more urgent
    cache_salt: str = ""  # prefixes are shared only with requests of the same
    truncate_prompt_tokens: Annotated[int, Meta(ge=1)] | None = None  # keep so many, the last
    return_token_ids: bool = False
    user: str = ""  # names the end user to the operator of the service; changes no answer
    safety_identifier: str = ""  # the same, by its newer name
    prompt_cache_key: str = ""  # a hint; common prefixes are found without one
    metadata: dict[str, Any] = {}  # the client's own notes; change no answer
    openinference: Internal | None = None

    @property
    def num_choices(self) -> int:
        """Answers, to all prompts."""
        return self.n

    @property
    def echoes(self) -> bool:
        """Its prompt stands before each answer."""
        return False

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens to name beside each drawn one; None: rate nothing."""
        raise NotImplementedError

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for each token of the prompt."""
        return self.prompt_logprobs

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def guided(self) -> StructuredOutputs:
        """The older names of `structured_outputs`."""
        return StructuredOutputs(
            json=self.guided_json,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
        )

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def counts_on(self) -> bool:
        """Every chunk tells the usage so far."""
        return self.wants_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    @property
    def wants_token_ids(self) -> bool:
        return self.openinference is not None and self.openinference.stream_token_ids

    @property
    def resume(self) -> Resume | None:
        return self.openinference.resume if self.openinference is not None else None


class ChatRequest(GenerationRequest, frozen=True, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1)]
    tools: Annotated[list[FunctionTool], Meta(max_length=128)] = []
    tool_choice: Literal["none", "auto", "required"] | NamedChoice = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: str | None = None  # for templates that know it
    chat_template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: NumLogprobs | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs or 0 if self.logprobs else None


class CompletionRequest(GenerationRequest, frozen=True, kw_only=True, dict=True):
    prompt: str | list[str | Count | list[Count]]
    logprobs: NumLogprobs | None = None
    echo: bool = False  # the prompt stands before the answer, rated like it
    best_of: Annotated[int, Meta(ge=1)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        if not self.echo or self.logprobs is None:
            return self.prompt_logprobs
        return max(self.logprobs, self.prompt_logprobs or 0)

    @property
    def num_choices(self) -> int:
        return self.n * len(self.prompts)

    @property
    def echoes(self) -> bool:
        return self.echo

    @cached_property
    def prompts(self) -> list[str | list[int]]:
        """Raises RequestError if it mixes texts and tokens."""
        return one_or_several("prompt", self.prompt) or [[]]


Input = Annotated[str, Meta(min_length=1)]


class EmbeddingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`input`: one text, one list of token ids, or several of either."""

    model: str
    input: Input | list[Input | Count | list[Count]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str = ""

    @property
    def inputs(self) -> list[str | list[int]]:
        """Raises RequestError if it mixes texts and tokens, or holds too much or nothing."""
        inputs = one_or_several("input", self.input)
        if not 1 <= len(inputs) <= MAX_INPUTS:
            raise RequestError(f"input: {len(inputs)} inputs; send 1 to {MAX_INPUTS}", "input")
        return inputs


def one_or_several(field: str, given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """One text, one list of token ids, or several of either. Raises RequestError for a mixture."""
    if isinstance(given, str):
        return [given]
    texts = [one for one in given if isinstance(one, str)]
    lists = [one for one in given if isinstance(one, list)]
    token_ids = [one for one in given if isinstance(one, int)]
    for several in (texts, lists, [token_ids]):
        if len(several) == len(given) or several == [given]:
            return [*several]
    raise RequestError(f"{field}: mixes texts and token ids; send one kind", field)


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One of `prompt` and `messages`; `model` may be left out, as only one is served."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True):
    model: str | None = None
    tokens: list[Count]
