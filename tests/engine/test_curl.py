"""The API asked with the `curl` of the system, as README writes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

ASKED = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}
ANSWER = "The capital of France is Paris."


def curl(server: Any, path: str, *options: str) -> str:
    """What curl prints. Its exit code is 0, also for an HTTP error."""
    command = ["curl", "--silent", "--show-error", "--max-time", "100", server.url + path]
    return subprocess.run([*command, *options], check=True, text=True, capture_output=True).stdout


@pytest.fixture
def headers(http: Any) -> tuple[str, ...]:
    token = http.headers["x-openinference-token"]
    return ("-H", "content-type: application/json", "-H", f"x-openinference-token: {token}")


def test_curl_gets_an_answer(server: Any, headers: tuple[str, ...]) -> None:
    answer = json.loads(curl(server, "/v1/chat/completions", *headers, "-d", json.dumps(ASKED)))
    assert answer["choices"][0]["message"]["content"] == ANSWER


def test_curl_gets_a_stream(server: Any, headers: tuple[str, ...]) -> None:
    body = json.dumps(ASKED | {"stream": True})
    printed = curl(server, "/v1/chat/completions", "--no-buffer", "--include", *headers, "-d", body)
    head, _, events = printed.replace("\r\n", "\n").partition("\n\n")
    assert "200 OK" in head.splitlines()[0]
    assert "content-type: text/event-stream" in head.lower()
    *chunks, done = [event.removeprefix("data: ") for event in events.strip().split("\n\n")]
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert done == "[DONE]"
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == ANSWER


def test_curl_is_told_what_is_wrong(server: Any, headers: tuple[str, ...]) -> None:
    """A body that is not JSON, sent as curl sends it when nobody says otherwise: as a form."""
    form = headers[2:]
    printed = curl(server, "/v1/chat/completions", "-w", " %{http_code}", *form, "-d", "model=x")
    assert "the body is not valid JSON" in printed
    assert printed.endswith(" 400")
