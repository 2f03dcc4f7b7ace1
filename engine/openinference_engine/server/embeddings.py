"""`/v1/embeddings`: the model's state behind the last token of a text, as a vector of length 1.

That is what models trained for it mean by an embedding (Qwen3-Embedding, E5-Mistral and others of
their kind, whose tokenizers put the end of text behind each input). A model trained to chat gives a
vector too, but neighbours of it say little.
"""

from __future__ import annotations

import base64
import secrets
from contextlib import aclosing
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import web

from openinference_engine.config import EngineConfig
from openinference_engine.core.messages import Submit, Token
from openinference_engine.errors import GenerationFailed, RequestError
from openinference_engine.request import SamplingParams
from openinference_engine.server.answer import answer
from openinference_engine.server.body import read
from openinference_engine.server.params import check_model
from openinference_engine.server.prompt import encode_to_answer, text_prompt
from openinference_engine.server.schema import EmbeddingRequest
from openinference_engine.server.state import STATE, ServerState

_PARAMS = SamplingParams(seed=0, max_tokens=1, temperature=0, embeds=True)
_Vector = npt.NDArray[np.float32]


async def embeddings(request: web.Request) -> web.Response:
    state = request.app[STATE]
    asked = await read(request, EmbeddingRequest)
    check_model(state, asked.model)
    check_embeds(state.engine)
    width = min(len(asked.inputs), state.engine.max_sequences)
    with state.admit(width):
        prompts = [
            await encode_to_answer(state, text_prompt(text, field="input")) for text in asked.inputs
        ]
        vectors: list[_Vector] = []
        for start in range(0, len(prompts), width):  # a request takes no more than all seats
            vectors += await _embed(state, prompts[start : start + width])
    num_tokens = sum(map(len, prompts))
    data = [
        {"object": "embedding", "index": index, "embedding": _shown(vector, asked)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return answer({"object": "list", "data": data, "model": state.model_name, "usage": usage})


def check_embeds(engine: EngineConfig) -> None:
    """Raises RequestError if this engine's device makes no embeddings."""
    if engine.device != "cpu":
        raise RequestError(
            "embeddings are not computed on a GPU; send this to an engine with --device cpu"
        )


def vector_of(token: Token) -> _Vector:
    """(hidden,) float32. Raises GenerationFailed if the core computed none."""
    if token.embedding is None:
        raise GenerationFailed("the engine computed no embedding of this input")
    return np.frombuffer(token.embedding, dtype=np.float32)


async def _embed(state: ServerState, prompts: list[list[int]]) -> list[_Vector]:
    """Raises Unavailable if the core ends meanwhile, GenerationFailed if an input has no vector."""
    attempt = secrets.token_hex(8)
    submits = {
        name: Submit(name, prompt_ids, _PARAMS)
        for index, prompt_ids in enumerate(prompts)
        if (name := f"{attempt}/{index}")
    }
    found: dict[str, _Vector] = {}
    async with aclosing(state.core.stream(list(submits.values()))) as tokens:
        async for token in tokens:
            prompt_ids = submits[token.request_id].prompt_ids
            state.metrics.prompt(len(prompt_ids), token.num_cached_tokens)
            found[token.request_id] = vector_of(token)
    return [found[name] for name in submits]


def _shown(vector: _Vector, asked: EmbeddingRequest) -> Any:
    """As numbers or as base64, cut to the dimensions asked for and of length 1 again."""
    if asked.dimensions is not None:
        if asked.dimensions > len(vector):
            raise RequestError(
                f"dimensions: {asked.dimensions} exceeds the model's {len(vector)}; lower it",
                "dimensions",
            )
        vector = vector[: asked.dimensions]
        vector = vector / np.linalg.norm(vector)
    if asked.encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
