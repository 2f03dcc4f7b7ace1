"""From what a client wrote to the token ids of its prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from openinference_engine.errors import RequestError
from openinference_engine.server.conversation import Message
from openinference_engine.server.params import check_in_vocabulary
from openinference_engine.server.schema import ChatRequest
from openinference_engine.server.state import ServerState
from openinference_engine.server.tools import ToolUse
from openinference_engine.tokenizer.chat import ChatOptions
from openinference_engine.tokenizer.tokenizer import Tokenizer

_NO_OPTIONS = ChatOptions()
_LONG_TEXT = 4096  # characters; longer ones are encoded off the event loop


@dataclass(frozen=True, slots=True)
class Prompt:
    field: str  # where it stands in the request, or the most of it
    size: int  # characters of all that is rendered and encoded, or ids
    encode: Callable[[Tokenizer], list[int]]


def text_prompt(
    prompt: str | list[int], *, adds_special_tokens: bool = True, field: str = "prompt"
) -> Prompt:
    def encode(tokenizer: Tokenizer) -> list[int]:
        if isinstance(prompt, str):
            return tokenizer.encode(prompt, adds_special_tokens=adds_special_tokens)
        return prompt

    return Prompt(field, len(prompt), encode)


def chat_prompt(messages: list[Message], options: ChatOptions = _NO_OPTIONS) -> Prompt:
    rendered: list[dict[str, Any]] = [message.for_template() for message in messages]
    parts = {
        "messages": rendered,
        "tools": options.tools,
        "chat_template_kwargs": options.variables,
    }
    sizes = {field: len(msgspec.json.encode(part).decode()) for field, part in parts.items()}
    return Prompt(
        max(sizes, key=lambda field: sizes[field]),
        sum(sizes.values()),
        lambda tokenizer: tokenizer.encode_chat(rendered, options),
    )


def chat_options(request: ChatRequest, tools: ToolUse | None) -> ChatOptions:
    """Raises RequestError if they contradict."""
    if request.continue_final_message and request.messages[-1].role != "assistant":
        raise RequestError(
            "continue_final_message: the last message is not the assistant's; remove the field",
            "continue_final_message",
        )
    effort = {"reasoning_effort": request.reasoning_effort} if request.reasoning_effort else {}
    return ChatOptions(
        tools=tools.for_template if tools else (),
        variables={**request.chat_template_kwargs, **effort},
        adds_generation_prompt=request.add_generation_prompt and not request.continue_final_message,
        continues_last=request.continue_final_message,
    )


async def encode(state: ServerState, prompt: Prompt) -> list[int]:
    """Raises RequestError if it cannot fit, or if the model's chat template refuses it."""
    _check_size(state, prompt)
    tokenizer = state.front_or_refuse.tokenizer
    if prompt.size > _LONG_TEXT:
        token_ids = await asyncio.to_thread(prompt.encode, tokenizer)
    else:
        await asyncio.sleep(0)  # between the many prompts of one request, others have their turn
        token_ids = prompt.encode(tokenizer)
    check_in_vocabulary(prompt.field, token_ids, state.front_or_refuse.vocab_size)
    return token_ids


async def encode_to_answer(
    state: ServerState, prompt: Prompt, keep: int | None = None
) -> list[int]:
    """The same for a prompt that an answer is to follow, so it is not empty and leaves room.

    `keep`: at most so many tokens, the last ones.
    """
    token_ids = (await encode(state, prompt))[-keep if keep else None :]
    field = prompt.field
    if not token_ids:
        raise RequestError(f"{field}: the prompt has no tokens; send some text", field)
    if len(token_ids) >= state.max_model_len:
        raise RequestError(
            f"{field}: the prompt has {len(token_ids)} tokens and the context holds "
            f"{state.max_model_len} with the answer; shorten it",
            field,
        )
    return token_ids


def _check_size(state: ServerState, prompt: Prompt) -> None:
    """Refuses what cannot fit before it is encoded.

    Encoding one very long word blocks the process for seconds, and with it the heartbeat.
    """
    if prompt.size > state.max_model_len * state.front_or_refuse.longest_token:
        raise RequestError(
            f"{prompt.field}: {prompt.size} characters cannot fit into a context of "
            f"{state.max_model_len} tokens; shorten it",
            prompt.field,
        )
