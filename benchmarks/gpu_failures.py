"""How long a group of two GPUs takes to end after one of its ranks is lost, and what it leaves.

    python -m benchmarks.gpu_failures [--rounds 50] [--device cpu] [--by pipeline]

Each round starts an engine over two ranks, lets it decode, and then kills rank 1, stops rank 1 or
kills rank 0, in turn. On the clock: until both processes have ended and the GPUs' memory is free
again. The promise is 5 seconds. Every round is a start and an end, so 50 of them show hangs, too.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import get_args

from openinference_engine.config import Device, EngineConfig, GroupConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shapes import SHAPES

_FAULTS = (
    ("rank 1 killed", 1, signal.SIGKILL),
    ("rank 1 stopped", 1, signal.SIGSTOP),
    ("rank 0 killed", 0, signal.SIGKILL),
)
_STEPS_BEFORE_A_FAULT = 50
_PATIENCE_SECONDS = 30.0
_FREE_MIB = 64  # what a GPU without processes may have in use


def decode_for_ever(folder: Path, device: Device, by: str) -> None:
    """Says the number of rank 1's process when all ranks decode."""
    config = EngineConfig(f"file://{folder}", device=device, group=GroupConfig(**{by: 2}))
    engine = Engine(open_checkpoint(folder), config)
    engine.warm_up()
    params = SamplingParams(seed=0, max_tokens=3000, temperature=0.0)
    for number in count():
        if not engine.has_work:
            engine.add(Request(str(number), [1, 2, 3], params))
        engine.step()
        if number == _STEPS_BEFORE_A_FAULT:
            print(_rank_process(), flush=True)


def _rank_process() -> int:
    """The only child of this process."""
    own = os.getpid()
    stats = (_stat(int(folder.name)) for folder in Path("/proc").glob("[0-9]*"))
    return next(number for number, _, parent in stats if parent == own)


def _stat(process: int) -> tuple[int, str, int]:
    """Its number, state and parent; no state for one that has gone."""
    with suppress(OSError):
        state, parent, *_ = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return process, state, int(parent)
    return process, "", 0


@contextmanager
def decoding_group(folder: Path, device: Device, by: str) -> Iterator[tuple[int, int]]:
    """Process numbers of rank 0 and rank 1, which decode."""
    command = [sys.executable, "-m", "benchmarks.gpu_failures"]
    command += ["--decode", str(folder), "--device", device, "--by", by]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            lines = process.stdout or ()
            yield process.pid, int(next(line for line in lines if line.strip().isdigit()))
        finally:
            process.kill()


def seconds_until_free(processes: tuple[int, int], device: Device) -> float:
    started = time.monotonic()
    while any(map(_runs, processes)) or (device == "cuda" and max(_used_mib()) > _FREE_MIB):
        if time.monotonic() - started > _PATIENCE_SECONDS:
            raise SystemExit(f"processes {processes} have not ended, or hold memory of a GPU")
        time.sleep(0.05)
    return time.monotonic() - started


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
    parser.add_argument("--device", choices=get_args(Device), default="cuda")
    parser.add_argument("--by", choices=("tensor", "pipeline"), default="tensor")
    parser.add_argument("--decode", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.decode is not None:
        decode_for_ever(options.decode, options.device, options.by)
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "model"
        write_checkpoint(folder, SHAPES["tiny"])
        for number in range(options.rounds):
            name, rank, fault = _FAULTS[number % len(_FAULTS)]
            with decoding_group(folder, options.device, options.by) as processes:
                os.kill(processes[rank], fault)
                seconds = seconds_until_free(processes, options.device)
                print(f"{number}: {name}: {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
