"""Clients that are slow or vanish lose their own request, and nobody else notices."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

PLAIN = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 5, "ignore_eos": True, "seed": 1}


@pytest.fixture(scope="module")
def impatient(make_server: Callable[..., Any], tiny_llama: Path) -> Any:
    flags = ("--served-model-name", "tiny", "--client-timeout-seconds", "3")
    server = make_server(f"file://{tiny_llama}", *flags)
    server.wait_until("/ready", 200)
    return server


@pytest.fixture
def raw(impatient: Any) -> Iterator[socket.socket]:
    """A connection that takes only little before it is read."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", impatient.port))
        yield connection
    impatient.wait_until_empty()


def head(path: str, length: int) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


def answer_of(server: Any) -> str:
    answer = httpx2.post(server.url + "/v1/completions", json=PLAIN, timeout=60)
    assert answer.status_code == 200
    return str(answer.json()["choices"][0]["text"])


def num_ended(server: Any, reason: str = "") -> float:
    """Answers that ended, those of one reason or all."""
    lines = httpx2.get(server.url + "/metrics", timeout=60).text.splitlines()
    name = f'vllm:request_success_total{{engine="0",finished_reason="{reason}'
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_client_that_does_not_read_is_cut_off(impatient: Any, raw: socket.socket) -> None:
    """Megabytes of log-probabilities, of which it reads nothing; its choices end with it.

    Those that were computed far ahead of the others may have come to their own end before.
    """
    before = answer_of(impatient)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "ignore_eos": True}
    asked = chat | {"n": 32, "max_tokens": 240, "stream": True}
    body = json.dumps(asked | {"logprobs": True, "top_logprobs": 20}).encode()
    raw.sendall(head("/v1/chat/completions", len(body)) + body)
    assert raw.recv(12) == b"HTTP/1.1 200"
    assert answer_of(impatient) == before
    deadline = time.monotonic() + 120
    while num_ended(impatient) < 32 + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert num_ended(impatient) == 32 + 2  # the answers before and beside them
    assert num_ended(impatient, "abort") > 0


def test_body_that_does_not_arrive_is_refused(impatient: Any, raw: socket.socket) -> None:
    raw.sendall(head("/v1/completions", 1000) + b'{"model": ')
    answer = raw.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert "the body did not arrive within 3 s; send it at once" in answer


def test_client_that_vanishes_frees_its_seats(impatient: Any, raw: socket.socket) -> None:
    body = json.dumps(PLAIN | {"n": 8, "max_tokens": 240, "stream": True}).encode()
    raw.sendall(head("/v1/completions", len(body)) + body)
    assert raw.recv(12) == b"HTTP/1.1 200"
    raw.close()
    impatient.wait_until_empty()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /tokenize HTTP/1.1\r\nAuthorization: Bearer secret\x01\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
    ],
)
def test_what_cannot_be_parsed_is_not_logged(
    start_server: Callable[..., Any], tiny_llama: Path, request_bytes: bytes
) -> None:
    """The HTTP library told the log why it refused: with the bytes, which may be a credential."""
    server = start_server(f"file://{tiny_llama}")
    server.wait_until("/health", 200)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request_bytes)
        assert connection.recv(4096).split()[1] == b"400"
    server.process.terminate()
    _, log = server.wait()
    assert "request not parsed" in log
    assert "secret" not in log
