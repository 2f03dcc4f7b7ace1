"""How long groups of GPUs take to end after one of their ranks is lost, and what they leave.

    python -m benchmarks.gpu_failures [--rounds 50] [--at-once 3] [--by pipeline] [--device cpu]

Each round starts an engine over two ranks, or four by both pipeline and tensor, or two in pods of
their own (process trees of this machine, which reach each other by its network), lets it decode,
and then kills another rank than 0, stops one or kills rank 0, in turn. On the clock: until all have
ended, and until the GPUs' memory is free again. The promise is 5 seconds. Every round is a start
and an end, so 50 of them show hangs, too. Rounds at once share the GPUs, and all lose a rank in the
same moment.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, get_args

from openinference_engine.config import Device, EngineConfig, GroupConfig, ServerConfig
from openinference_engine.engine import Engine
from openinference_engine.ranks.pod import serve_pod
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shapes import SHAPES

_FAULTS = (
    ("another rank killed", 1, signal.SIGKILL),
    ("another rank stopped", 1, signal.SIGSTOP),
    ("rank 0 killed", 0, signal.SIGKILL),
)
_SIZES: dict[str, dict[str, Any]] = {
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
    "both": {"pipeline": 2, "tensor": 2},
    "pods": {"pipeline": 2, "pods": 2},
}
_BY_NETWORK = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo"}
_STEPS_BEFORE_A_FAULT = 50
_START_SECONDS = 120.0
_PATIENCE_SECONDS = 30.0
_FREE_MIB = 64  # what a GPU without processes may have in use
_DECODES = "all ranks decode"


def be_pod(options: argparse.Namespace) -> None:
    """One of a group."""
    group = GroupConfig(**_SIZES[options.by], pod=options.pod, rendezvous=options.rendezvous)
    config = EngineConfig(f"file://{options.folder}", device=options.device, group=group)
    if options.pod > 0:
        sys.exit(asyncio.run(serve_pod(ServerConfig("127.0.0.1", 0), config)))
    decode_for_ever(options.folder, config)


def decode_for_ever(folder: Path, config: EngineConfig) -> None:
    """Says a word when all ranks do."""
    engine = Engine(open_checkpoint(folder), config)
    engine.warm_up()
    params = SamplingParams(seed=0, max_tokens=3000, temperature=0.0)
    for number in count():
        if not engine.has_work:
            engine.add(Request(str(number), [1, 2, 3], params))
        engine.step()
        if number == _STEPS_BEFORE_A_FAULT:
            print(_DECODES, flush=True)


def _rank_processes(pods: list[int], count: int) -> list[int]:
    """The first children of these processes, as many as there are ranks."""
    stats = (_stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))
    return sorted(number for number, _, parent in stats if parent in pods)[:count]


def _stat(process: int) -> tuple[int, str, int]:
    """Its number, state and parent; no state for one that has gone."""
    with suppress(OSError):
        state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return process, state, int(parent)
    return process, "", 0


@contextmanager
def decoding_groups(folder: Path, device: Device, by: str, count: int) -> Iterator[list[list[int]]]:
    """Process numbers of all ranks of each, rank 0 first, which decode, then of the other pods."""
    group = GroupConfig(**_SIZES[by], rendezvous="")
    command = [sys.executable, "-m", "benchmarks.gpu_failures"]
    command += ["--folder", str(folder), "--device", device, "--by", by]
    with ExitStack() as stack:
        groups = [
            [stack.enter_context(pod) for pod in _start_pods(command, group)] for _ in range(count)
        ]

        def kill() -> None:
            for pod in chain.from_iterable(groups):
                pod.kill()

        stack.callback(kill)
        timer = threading.Timer(_START_SECONDS, kill)
        stack.callback(timer.cancel)
        timer.start()
        processes = [_processes(pods, group.num_ranks - 1) for pods in groups]
        timer.cancel()
        yield processes


def _start_pods(command: list[str], group: GroupConfig) -> list[subprocess.Popen[str]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        rendezvous = f"127.0.0.1:{probe.getsockname()[1]}"
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3").split(",")
    pods = []
    for pod in range(group.pods):
        visible = ",".join(gpus[rank] for rank in group.ranks_of(pod))
        surroundings = os.environ | _BY_NETWORK | {"CUDA_VISIBLE_DEVICES": visible}
        flags = ["--pod", str(pod), "--rendezvous", rendezvous]
        pods.append(
            subprocess.Popen(
                [*command, *flags],
                stdout=subprocess.PIPE,
                text=True,
                env=surroundings if group.pods > 1 else None,
            )
        )
    return pods


def _processes(pods: list[subprocess.Popen[str]], num_others: int) -> list[int]:
    first, *others = [pod.pid for pod in pods]
    if all(line.strip() != _DECODES for line in pods[0].stdout or ()):
        raise SystemExit(f"a group did not decode within {_START_SECONDS:g} s, or ended")
    return [first, *_rank_processes(others or [first], num_others), *others]


def lose_ranks(groups: list[list[int]], first: int, device: Device) -> tuple[list[float], float]:
    """Seconds until each has ended, and until no GPU has memory in use.

    first: the number of the first group's round.
    """
    faults = [_FAULTS[number % len(_FAULTS)] for number in range(first, first + len(groups))]
    for processes, (_, rank, fault) in zip(groups, faults, strict=True):
        os.kill(processes[rank], fault)
    begun, ended = time.monotonic(), dict[int, float]()
    while len(ended) < len(groups) or (device == "cuda" and max(_used_mib()) > _FREE_MIB):
        seconds = time.monotonic() - begun
        if seconds > _PATIENCE_SECONDS:
            raise SystemExit(f"of {groups}, not all have ended, or they hold memory of a GPU")
        for index, processes in enumerate(groups):
            if index not in ended and not any(map(_runs, processes)):
                ended[index] = seconds
                print(
                    f"{first + index}: {faults[index][0]}: ended after {seconds:.2f} s", flush=True
                )
        time.sleep(0.02)
    return [ended[index] for index in range(len(groups))], time.monotonic() - begun


def _runs(process: int) -> bool:
    return _stat(process)[1] not in ("", "Z")


def _used_mib() -> list[int]:
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        query += ["-i", visible]
    return [int(line) for line in subprocess.check_output(query, text=True).split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--device", choices=get_args(Device), default="cuda")
    parser.add_argument("--by", choices=_SIZES, default="tensor")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pod", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rendezvous", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        be_pod(options)
    seconds: list[float] = []
    until_free: list[float] = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        write_checkpoint(folder, SHAPES["tiny"])
        while (done := len(seconds)) < options.rounds:
            count = min(options.at_once, options.rounds - done)
            with decoding_groups(folder, options.device, options.by, count) as groups:
                of_each, free = lose_ranks(groups, done, options.device)
            seconds += of_each
            until_free.append(free)
    for index, (name, _, _) in enumerate(_FAULTS):
        of_fault = seconds[index :: len(_FAULTS)] or [math.nan]
        print(f"{name}: {len(of_fault)} times, longest {max(of_fault):.2f} s")
    print(f"memory free again: longest {max(until_free):.2f} s")


if __name__ == "__main__":
    main()
