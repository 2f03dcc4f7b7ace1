"""How long an engine on a GPU takes to be ready, and what of that is the way of the bytes.

    python -m benchmarks.startup --shape llama-2-7b --weights bfloat16,fp8,int4 [--gptq]

Writes a random checkpoint, which then lies in the page cache, and starts the server as a user does:
from the start of the process to the first 200 of /ready. The limit is the checkpoint's bytes at the
speed of a copy from pinned memory to the device in the same run; the peer is vLLM 0.26, whose
start takes 50 to 76 s for a model of this size on an H100.
"""

from __future__ import annotations

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.checkpoints import write_checkpoint
from benchmarks.limits import pinned_bytes_per_second
from benchmarks.shapes import DENSE_SHAPES

PEER_SECONDS = 50.0
_POLL_SECONDS, _PATIENCE_SECONDS = 0.02, 600
_STAGE = re.compile(r'^openinference_start_stage_seconds\{.*stage="(\w+)".*\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds until the server listened, until it was ready, and what its stages say."""

    listening: float
    ready: float
    stages: dict[str, float]
    answer: str  # to one request behind it


def measure(folder: Path, *flags: str) -> Start:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model", *flags)
    command = (sys.executable, "-m", "openinference_engine", "serve", f"file://{folder}", *flags)
    began = time.monotonic()
    with _running(command) as process:
        listening = _await_status(process, f"http://127.0.0.1:{port}/health") - began
        ready = _await_status(process, f"http://127.0.0.1:{port}/ready") - began
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        stages = {name: float(seconds) for name, seconds in _STAGE.findall(metrics)}
        return Start(listening, ready, stages, _complete(port))


@contextmanager
def _running(command: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _await_status(process: subprocess.Popen[bytes], url: str) -> float:
    """When the address first answered 200."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return time.monotonic()
        except OSError:
            time.sleep(_POLL_SECONDS)
    ended = process.returncode is not None
    what = f"ended with {process.returncode}" if ended else "was not ready in time"
    raise SystemExit(f"the server {what}")


def _complete(port: int) -> str:
    body = b'{"model": "model", "prompt": "The sea", "max_tokens": 4, "temperature": 0}'
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions", body, {"content-type": "application/json"}
    )
    text: str = urllib.request.urlopen(request).read().decode()  # noqa: S310
    return text


def describe(start: Start, limit_seconds: float) -> str:
    stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in start.stages.items())
    return (
        f"ready in {start.ready:.2f} s, {start.ready / limit_seconds:.1f} times the limit, "
        f"{PEER_SECONDS / start.ready:.0f} times as fast as the peer; "
        f"listening {start.listening:.2f}, {stages}"
    )


def prepare(folder: Path, shape: str, is_gptq: bool) -> int:
    """Writes the checkpoint unless it is there; the bytes of its weights."""
    if not folder.exists():
        began = time.monotonic()
        num_bytes = write_checkpoint(folder, DENSE_SHAPES[shape], is_gptq)
        print(f"wrote {num_bytes / 1e9:.1f} GB in {time.monotonic() - began:.1f} s", flush=True)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=DENSE_SHAPES, default="llama-2-7b")
    parser.add_argument("--weights", default="auto", help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--gptq", action="store_true", help="a checkpoint of four-bit codes")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    folder = options.folder / f"openinference-{options.shape}{'-gptq' if options.gptq else ''}"
    num_bytes = prepare(folder, options.shape, options.gptq)
    speed = pinned_bytes_per_second(torch.device("cuda"), 1 << 30)
    limit = num_bytes / speed
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{num_bytes / 1e9:.2f} GB at {speed / 1e9:.1f} GB/s from pinned memory: {limit:.2f} s")
    for weights in options.weights.split(","):
        for _ in range(options.rounds):
            start = measure(folder, "--device", "cuda", "--weights", weights)
            print(f"{options.shape} {weights}: {describe(start, limit)}", flush=True)


if __name__ == "__main__":
    main()
