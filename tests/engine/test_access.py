"""Who may ask: with a token only those who have it, without one nobody for what is internal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-openinference-token": "wrong"}, {"x-openinference-token": b"\xff"}],
)
def test_token_is_wanted_everywhere_but_for_health_and_metrics(
    http: httpx2.Client, headers: dict[str, str | bytes]
) -> None:
    with httpx2.Client(base_url=http.base_url, headers=headers, timeout=60) as stranger:
        for path in ("/v1/models", "/load", "/version"):
            answer = stranger.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token")
        for path in ("/health", "/ready", "/metrics"):
            assert stranger.get(path).status_code == 200


def test_open_server_refuses_the_internal_field(
    start_server: Callable[..., Any], tiny_llama: Path
) -> None:
    server = start_server(f"file://{tiny_llama}", "--served-model-name", "tiny")
    server.wait_until("/ready", 200)
    body = {
        "model": "tiny",
        "prompt": [5],
        "stream": True,
        "openinference": {"stream_token_ids": True},
    }
    answer = httpx2.post(server.url + "/v1/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "it needs a server with a token" in answer.json()["error"]["message"]
