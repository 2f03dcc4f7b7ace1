"""What the router adds to a request, beside nginx as the floor: same upstream, same run, one core.

    python -m benchmarks.router [--rate 500] [--seconds 10] [--rounds 3] [--streams 2000]

Requests start at fixed times whatever became of the ones before (an open loop: a slow proxy cannot
slow the clock). Ways are measured in turns: straight to the upstream, through nginx, through the
router; what is added is the difference of percentiles to the straight way of the same round.
nginx and router run on one core, upstream and clients on the others.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

PROMPT = "Tell me about the sea. " * 20
PROXY_CORE, *OTHER_CORES = sorted(os.sched_getaffinity(0))

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream stub {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{
      proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass
class Way:
    """One address to send requests to, and what came of them."""

    name: str
    url: str
    process: psutil.Process | None = None
    seconds: list[list[float]] = field(default_factory=list)
    errors: int = 0
    cpu_ms: list[float] = field(default_factory=list)

    def percentile(self, percent: int) -> list[float]:
        """Milliseconds, one figure per round."""
        return [
            statistics.quantiles(once, n=100, method="inclusive")[percent - 1] * 1000
            for once in self.seconds
        ]


async def first_byte_seconds(
    session: aiohttp.ClientSession, way: Way, timing: list[float] | None = None
) -> float:
    """Send one streamed request; the time until its first event. Raises when it is not whole."""
    body = {
        "model": "stub",
        "stream": True,
        "messages": [{"role": "user", "content": PROMPT}],
        "user": json.dumps(timing) if timing else "",
    }
    started_at = time.perf_counter()
    async with session.post(f"{way.url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        await response.content.readuntil(b"\n\n")
        passed = time.perf_counter() - started_at
        if not (await response.read()).endswith(b"data: [DONE]\n\n"):
            raise aiohttp.ClientPayloadError("the stream has no end")
    return passed


async def measure_rate(way: Way, rate: int, seconds: float) -> None:
    """One round of requests at fixed times."""
    cpu_before = _cpu_seconds(way.process)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        started_at = time.perf_counter()
        tasks = []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(started_at + number / rate - time.perf_counter())
            tasks.append(asyncio.create_task(first_byte_seconds(session, way)))
        results = await asyncio.gather(*tasks, return_exceptions=True)
    times = [result for result in results if isinstance(result, float)]
    way.seconds.append(times)
    way.errors += len(results) - len(times)
    way.cpu_ms.append((_cpu_seconds(way.process) - cpu_before) * 1000 / len(results))


async def measure_streams(way: Way, count: int) -> dict[str, object]:
    """Hold `count` streams open at two events a second each."""
    memory_before = way.process.memory_info().rss if way.process else 0
    cpu_before = _cpu_seconds(way.process)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for _ in range(count):
            await asyncio.sleep(5 / count)
            timing = [0.5, 0.5, 30]
            tasks.append(asyncio.create_task(first_byte_seconds(session, way, timing)))
        await asyncio.sleep(5)
        memory = way.process.memory_info().rss - memory_before if way.process else 0
        results = await asyncio.gather(*tasks, return_exceptions=True)
    cpu_seconds = _cpu_seconds(way.process) - cpu_before
    return {
        "streams": count,
        "errors": sum(isinstance(result, BaseException) for result in results),
        "KiB per stream": round(memory / count / 1024, 1),
        "CPU µs per event": round(cpu_seconds * 1e6 / (count * 31), 1),
    }


def _cpu_seconds(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


@contextlib.contextmanager
def running(command: list[str], core: int | None, **env: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, env={**os.environ, **env}, stdout=subprocess.DEVNULL)
    os.sched_setaffinity(process.pid, {PROXY_CORE} if core is not None else OTHER_CORES)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return
        time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[list[Way]]:
    """Upstream, nginx and router, started and connected."""
    upstream, nginx, client, internal = (_free_port() for _ in range(4))
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, upstream=upstream, port=nginx))
    straight = f"http://127.0.0.1:{upstream}"
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(_kubeconfig(straight)))
    token = folder / "token"
    token.write_text("benchmark")
    settings = {
        "NAMESPACE": "bench",
        "TOKEN_FILE": str(token),
        "HOST": "127.0.0.1",
        "CLIENT_PORT": str(client),
        "INTERNAL_PORT": str(internal),
        "ENDPOINT_PAUSE_SECONDS": "0",
        "DRAIN_TIMEOUT_SECONDS": "1",
    }
    env = {f"OPENINFERENCE_ROUTER_{name}": value for name, value in settings.items()}
    python = [sys.executable, "-m"]
    with (
        running([*python, "benchmarks.router_stub", str(upstream)], core=None),
        running([shutil.which("nginx") or "nginx", "-c", str(config)], PROXY_CORE) as nginx_process,
        running(
            [*python, "openinference_router"], PROXY_CORE, KUBECONFIG=str(kubeconfig), **env
        ) as router_process,
    ):
        _wait(f"{straight}/api/v1/namespaces/bench/configmaps")
        _wait(f"http://127.0.0.1:{internal}/ready")
        yield [
            Way("straight", straight),
            Way("nginx", f"http://127.0.0.1:{nginx}", nginx_process),
            Way("router", f"http://127.0.0.1:{client}", router_process),
        ]


def _kubeconfig(server: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


async def measure(found: list[Way], arguments: argparse.Namespace) -> None:
    for way in found:
        await measure_rate(way, min(50, arguments.rate), 1)  # warm-up, thrown away
        way.seconds.clear()
        way.cpu_ms.clear()
    for _ in range(arguments.rounds):
        for way in found:
            await measure_rate(way, arguments.rate, arguments.seconds)
    straight = found[0]
    for way in found:
        added = {
            f"added p{percent} ms": round(
                statistics.median(
                    there - base
                    for there, base in zip(
                        way.percentile(percent), straight.percentile(percent), strict=True
                    )
                ),
                2,
            )
            for percent in (50, 95, 99)
        }
        cpu = round(statistics.median(way.cpu_ms), 2)
        print(json.dumps({"way": way.name, "rate": arguments.rate, **added, "errors": way.errors,
                          "CPU ms per request": cpu}))  # fmt: skip
    if arguments.streams:
        for way in found[1:]:
            print(json.dumps({"way": way.name, **await measure_streams(way, arguments.streams)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=2000)
    arguments = parser.parse_args()
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, soft_limit))
    os.sched_setaffinity(0, OTHER_CORES)
    with tempfile.TemporaryDirectory() as folder, ways(Path(folder)) as found:
        asyncio.run(measure(found, arguments))


if __name__ == "__main__":
    main()
