"""What each rank of a group reads of a checkpoint, and how long it takes to load.

    python -m benchmarks.rank_loading [--shape llama-2-7b] [--layers 2] [--ranks 1,2,4] [--gptq]

A random checkpoint is written to a disk and put out of the page cache; then one rank loads its part
in a process of its own, as a CPU rank does and as a rank with a GPU does, whose device is this CPU
here. What it read are the pages of the files that the kernel has then, read ahead included; what
it ought to read is its share, beside the start of every tensor, which identifies the weights.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import msgspec
import numpy as np
import torch
from openinference_engine.config import GroupConfig
from openinference_engine.llama_weights import load_llama
from openinference_engine.models.registry import build_model
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.team import Ranks, Team
from openinference_engine.weights.checkpoint import Checkpoint, open_checkpoint
from openinference_engine.weights.kernel_formats import stored_format
from openinference_engine.weights.loader import Weights

from benchmarks.checkpoints import write_checkpoint
from benchmarks.shapes import SHAPES

_NUM_POSITIONS = 512


def load(checkpoint: Checkpoint, way: str, team: Team) -> object:
    """This rank's part, by the functions that the engine calls."""
    ranks = Ranks(GroupConfig(tensor=team.size), team.index, team)
    if way == "cpu":
        weights = Weights(checkpoint, torch.float32, keeps_format=True, ranks=ranks)
        return build_model(weights, checkpoint.config, _NUM_POSITIONS)
    own = CheckpointPart(checkpoint, team)
    weights, device = Weights(own, torch.bfloat16, ranks=ranks), torch.device("cpu")
    return load_llama(weights, own.config, _NUM_POSITIONS, device, stored_format(checkpoint))


def load_and_tell(folder: Path, way: str, team: Team) -> None:
    """In a process of its own: seconds, and the most bytes beside those of the files."""
    begun = time.perf_counter()
    checkpoint = open_checkpoint(folder)
    _ = checkpoint.fingerprint  # which ranks compare when they meet
    kept = load(checkpoint, way, team)
    seconds = time.perf_counter() - begun
    print(seconds, _most_resident_bytes(), flush=True)
    del kept


def _most_resident_bytes() -> int:
    """Of this process alone, which getrusage does not say of one that was forked."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def measure(folder: Path, way: str, team: Team) -> tuple[float, int, int]:
    """Seconds, bytes read, and the most that were resident, files that are read included."""
    files = sorted(folder.glob("*.safetensors"))
    for file in files:
        _forget(file)
    command = [sys.executable, "-m", "benchmarks.rank_loading", "--folder", str(folder)]
    command += ["--way", way, "--rank", str(team.index), "--ranks", str(team.size)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(told[0]), sum(map(_cached_bytes, files)), int(told[1])


def _forget(path: Path) -> None:
    """Puts a file out of the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if (left := _cached_bytes(path)) > path.stat().st_size // 100:
        raise SystemExit(f"{left} bytes of {path} stay in memory; choose a --directory on a disk")


def _cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache (mincore)."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        begin = np.frombuffer(view, np.uint8).ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(len(view)), pages.ctypes) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return int((pages & 1).sum()) * mmap.PAGESIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--ranks", default="1,2,4")
    parser.add_argument("--gptq", action="store_true", help="four-bit codes instead of bfloat16")
    parser.add_argument("--directory", type=Path, help="on a disk; default: the temporary one")
    for name in ("--folder", "--way", "--rank"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        team = Team(int(options.rank), int(options.ranks))
        load_and_tell(Path(options.folder), options.way, team)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """The last rank of each group, which has its part of every matrix."""
    model = msgspec.structs.replace(SHAPES[options.shape], num_layers=options.layers)
    with tempfile.TemporaryDirectory(dir=options.directory) as parent:
        folder = Path(parent) / "model"
        whole = write_checkpoint(folder, model, options.gptq)
        print(f"{options.shape}, {options.layers} layers: {whole / 1e6:.0f} MB")
        for way, size in product(("cpu", "gpu"), map(int, options.ranks.split(","))):
            seconds, read, peak = measure(folder, way, Team(size - 1, size))
            print(
                f"{way}, rank {size - 1} of {size}: {read / 1e6:.0f} MB read, "
                f"{read / whole:.2f} of all, {seconds:.2f} s, {peak / 1e6:.0f} MB at most"
            )


if __name__ == "__main__":
    main()
