"""`/tokenize` and `/detokenize`: what the model's tokenizer makes of a text, and back."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from openinference_engine.errors import RequestError
from openinference_engine.server.answer import answer
from openinference_engine.server.body import read
from openinference_engine.server.params import check_in_vocabulary, check_model
from openinference_engine.server.prompt import Prompt, chat_prompt, encode, text_prompt
from openinference_engine.server.schema import DetokenizeRequest, TokenizeRequest
from openinference_engine.server.state import STATE


async def tokenize(request: web.Request) -> web.Response:
    state = request.app[STATE]
    asked = await read(request, TokenizeRequest)
    check_model(state, asked.model)
    token_ids = await encode(state, _prompt(asked))
    told: dict[str, Any] = {
        "count": len(token_ids),
        "max_model_len": state.max_model_len,
        "tokens": token_ids,
    }
    if asked.return_token_strs:
        tokenizer = state.front_or_refuse.tokenizer
        pieces = (tokenizer.token_bytes(token_id) for token_id in token_ids)
        told["token_strs"] = [piece.decode(errors="replace") for piece in pieces]
    return answer(told)


async def detokenize(request: web.Request) -> web.Response:
    state = request.app[STATE]
    asked = await read(request, DetokenizeRequest)
    check_model(state, asked.model)
    front = state.front_or_refuse
    check_in_vocabulary("tokens", asked.tokens, front.vocab_size)
    text = front.tokenizer.decode(asked.tokens, skips_special_tokens=False)
    return answer({"prompt": text})


def _prompt(asked: TokenizeRequest) -> Prompt:
    if (asked.prompt is None) == (asked.messages is None):
        raise RequestError("prompt: send either prompt or messages", "prompt")
    if asked.messages is not None:
        return chat_prompt(asked.messages)
    return text_prompt(asked.prompt or "", adds_special_tokens=asked.add_special_tokens)
