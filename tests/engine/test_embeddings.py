"""Embeddings through the official client; test_logits.py compares them with transformers."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import openai
import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.core.messages import Token
from openinference_engine.errors import GenerationFailed, RequestError
from openinference_engine.server.embeddings import check_embeds, vector_of

TEXTS = ["The cat sat on the mat.", "A feline rests.", "Interest rates rose."] * 2


def test_the_clients_own_base64_holds_what_json_does(
    client: openai.OpenAI, http: httpx2.Client
) -> None:
    """Of more inputs than seats."""
    answer = client.embeddings.create(model="smollm2", input=TEXTS)
    assert [one.index for one in answer.data] == list(range(6))
    plain = http.post("/v1/embeddings", json={"model": "smollm2", "input": TEXTS}).json()["data"]
    for one, expected in zip(answer.data, plain, strict=True):
        np.testing.assert_allclose(one.embedding, expected["embedding"], atol=1e-6)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 30


def test_embedding_may_be_cut_and_written_in_two_ways(http: httpx2.Client) -> None:
    body = {"model": "smollm2", "input": [33, 28, 216], "dimensions": 64}
    (plain,) = http.post("/v1/embeddings", json=body).json()["data"]
    assert len(plain["embedding"]) == 64
    assert np.linalg.norm(plain["embedding"]) == pytest.approx(1, abs=1e-6)
    body = body | {"input": [[33, 28, 216]], "encoding_format": "base64"}
    (coded,) = http.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(coded["embedding"]), dtype="<f4")
    assert vector.tolist() == pytest.approx(plain["embedding"])


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"input": ""}, "input", "length >= 1"),
        ({"input": []}, "input", "0 inputs; send 1 to 2048"),
        ({"input": ["x"] * 2049}, "input", "2049 inputs; send 1 to 2048"),
        ({"input": ["x", 1]}, "input", "mixes texts and token ids; send one kind"),
        ({"input": [[]]}, "input", "the prompt has no tokens"),
        ({"input": [49152]}, "input", "49152 is no token"),
        ({"input": [5] * 3000}, "input", "the prompt has 3000 tokens"),  # of one input
        ({"input": "x " * 2000}, "input", "shorten it"),
        ({"dimensions": 577}, "dimensions", "577 exceeds the model's 576; lower it"),
        ({"encoding_format": "int8"}, "encoding_format", "'int8'"),
        ({"temperature": 1}, "temperature", "unknown; remove it"),
    ],
)
def test_embedding_that_cannot_be_made_is_refused(
    http: httpx2.Client, change: dict[str, Any], field: str, message: str
) -> None:
    answer = http.post("/v1/embeddings", json={"model": "smollm2", "input": "x"} | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert message in answer.json()["error"]["message"]


def test_device_that_makes_no_embeddings_is_told_with_the_remedy() -> None:
    with pytest.raises(RequestError, match="send this to an engine with --device cpu") as refusal:
        check_embeds(EngineConfig("", device="cuda"))
    assert refusal.value.status == 400


def test_answer_without_an_embedding_is_a_failure() -> None:
    with pytest.raises(GenerationFailed, match="computed no embedding"):
        vector_of(Token("x", 0, "length", 0))
