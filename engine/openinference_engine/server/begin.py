"""From a validated body to a generation that can run: the way all answers begin.

Raises RequestError if the body does not fit the model.
"""

from __future__ import annotations

from openinference_engine.errors import RequestError
from openinference_engine.server.encoded_prompt import EncodedPrompt
from openinference_engine.server.generation import Generation
from openinference_engine.server.params import check_model
from openinference_engine.server.prompt import (
    Prompt,
    chat_options,
    chat_prompt,
    encode_to_answer,
    text_prompt,
)
from openinference_engine.server.schema import ChatRequest, CompletionRequest, GenerationRequest
from openinference_engine.server.shape import held_to, reading_of
from openinference_engine.server.state import ServerState
from openinference_engine.server.structure import compile_structure
from openinference_engine.server.tools import ToolUse, tool_use


def check(state: ServerState, body: GenerationRequest) -> None:
    """Refuses what the schema cannot see. Comes first: nothing is admitted that it refuses."""
    check_model(state, body.model)
    if body.stream_options is not None and not body.stream:
        raise RequestError("stream_options: only allowed with stream: true", "stream_options")
    if isinstance(body, ChatRequest) and body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs: only allowed with logprobs: true", "top_logprobs")
    if body.num_prompt_logprobs is not None and body.stream:
        field = "echo" if body.prompt_logprobs is None else "prompt_logprobs"
        raise RequestError(
            f"{field}: a stream rates no prompt; set stream: false or leave out logprobs", field
        )
    _check_number(state, body)
    if body.openinference is None:
        return
    if state.server.token is None:
        raise RequestError(
            "openinference: internal field; it needs a server with a token", "openinference"
        )
    if body.resume is not None and (not body.stream or body.seed is None):
        raise RequestError(
            "openinference.resume: needs stream: true and the seed of the first request",
            "openinference.resume",
        )


def _check_number(state: ServerState, body: GenerationRequest) -> None:
    """Answers that could never have a place at once are no matter of trying again."""
    if body.num_choices > state.max_in_flight:
        is_n = body.num_choices == body.n
        field, remedy = ("n", "lower it") if is_n else ("prompt", "send fewer in one request")
        raise RequestError(
            f"{field}: {body.num_choices} answers at once are more than the {state.max_in_flight} "
            f"that this server runs and queues; {remedy}",
            field,
        )
    best_of = body.best_of if isinstance(body, CompletionRequest) else None
    if best_of is not None and best_of != body.n:
        raise RequestError(
            f"best_of: {best_of} is not n = {body.n}; ask for n: {best_of} with logprobs and keep "
            "the likeliest",
            "best_of",
        )


async def begin_chat(state: ServerState, body: ChatRequest) -> Generation:
    tools = tool_use(body, state.front_or_refuse.call_format)
    prompt = chat_prompt(body.messages, chat_options(body, tools))
    return await _begin(state, body, [prompt], tools, "chatcmpl")


async def begin_completion(state: ServerState, body: CompletionRequest) -> Generation:
    field = "prompt" if len(body.prompts) == 1 else "prompt[{}]"
    given = enumerate(body.prompts)
    prompts = [text_prompt(prompt, field=field.format(number)) for number, prompt in given]
    return await _begin(state, body, prompts, None, "cmpl")


async def _begin(
    state: ServerState,
    body: GenerationRequest,
    prompts: list[Prompt],
    tools: ToolUse | None,
    id_prefix: str,
) -> Generation:
    front = state.front_or_refuse
    encoded = [
        EncodedPrompt(
            await encode_to_answer(state, prompt, body.truncate_prompt_tokens), front.tokenizer
        )
        for prompt in prompts
    ]
    reading = reading_of(front, body, tools, encoded[0].token_ids)  # of a chat, which has only one
    grammar = await compile_structure(state, held_to(body, tools, reading))
    return Generation(state, body, encoded, grammar, reading, id_prefix)
