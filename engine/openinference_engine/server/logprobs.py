"""The shapes in which clients read log-probabilities: OpenAI's two, and vLLM's of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from openinference_engine.results import TokenLogprobs
from openinference_engine.server.piece import NamedToken, RatedToken
from openinference_engine.tokenizer.tokenizer import Tokenizer


def name_tokens(
    tokenizer: Tokenizer, token_id: int, logprobs: TokenLogprobs, offset: int = 0
) -> RatedToken:
    pairs = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
    return RatedToken(
        NamedToken(token_id, tokenizer.token_bytes(token_id), logprobs.logprob),
        logprobs.rank,
        [NamedToken(one, tokenizer.token_bytes(one), logprob) for one, logprob in pairs],
        offset,
    )


def chat_logprobs(rated: Sequence[RatedToken]) -> dict[str, Any] | None:
    if not rated:
        return None
    content = [
        {**_chat_token(one.token), "top_logprobs": [_chat_token(other) for other in one.top]}
        for one in rated
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(rated: Sequence[RatedToken]) -> dict[str, Any] | None:
    if not rated:
        return None
    return {
        "tokens": [_name(one.token) for one in rated],
        "token_logprobs": [one.token.logprob for one in rated],
        "top_logprobs": [_by_name(one) for one in rated],
        "text_offset": [one.offset for one in rated],
    }


def echoed_logprobs(
    echoed: str, start: bytes, prompt: Sequence[RatedToken], answer: Sequence[RatedToken]
) -> dict[str, Any] | None:
    """Prompt and answer as one text; nothing rates the prompt's first token, `start`."""
    behind = [replace(one, offset=len(echoed) + one.offset) for one in answer]
    rated = completion_logprobs([*prompt, *behind])
    if rated is None:
        return None
    first = {
        "tokens": _name(NamedToken(0, start, 0.0)),
        "token_logprobs": None,
        "top_logprobs": None,
        "text_offset": 0,
    }
    return {name: [first[name], *values] for name, values in rated.items()}


def prompt_logprobs(rated: Sequence[RatedToken]) -> list[dict[str, Any] | None]:
    """One entry for each prompt token; nothing comes before the first, so it has none."""
    return [None, *(_by_id(one) for one in rated)]


def _chat_token(token: NamedToken) -> dict[str, Any]:
    text = token.text.decode(errors="replace")
    return {"token": text, "bytes": list(token.text), "logprob": token.logprob}


def _name(token: NamedToken) -> str:
    """Its text; parts of characters are spelt out, else many would have one name."""
    try:
        return token.text.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text)


def _by_name(one: RatedToken) -> dict[str, float]:
    """The likeliest tokens and, as OpenAI does, the one drawn even where it is none of them."""
    return {_name(token): token.logprob for token in (*one.top, one.token)}


def _by_id(one: RatedToken) -> dict[str, Any]:
    ranked = [*enumerate(one.top, start=1), (one.rank, one.token)]
    return {
        str(token.token_id): {
            "logprob": token.logprob,
            "rank": rank,
            "decoded_token": token.text.decode(errors="replace"),
        }
        for rank, token in ranked
    }
