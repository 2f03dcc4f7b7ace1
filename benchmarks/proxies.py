"""The proxies under measurement, each on one core in front of the same stubs.

nginx is the floor: it copies bytes. LiteLLM's proxy is the peer in Python; it is installed into a
throw-away environment, because it pins what the project also uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROXY_CORE, *OTHER_CORES = sorted(os.sched_getaffinity(0))
LITELLM = "litellm[proxy]"

NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_buffer_size 1m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  upstream stub {{ {servers} keepalive 4096; }}
  server {{
    listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{
      proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Way:
    """One port to send requests to; the process is what stands between."""

    name: str
    port: int
    process: psutil.Process | None = None

    def cpu_seconds(self) -> float:
        if self.process is None:
            return 0.0
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)

    def memory_bytes(self) -> int:
        if self.process is None:
            return 0
        family = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)


@contextlib.contextmanager
def stubs(count: int = 1, prefix_tokens: int = 0) -> Iterator[list[int]]:
    """Engines that replay timing; their ports."""
    ports = [free_port() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        for number in range(count):
            words = [sys.executable, "-m", "benchmarks.router_stub", *map(str, ports)]
            words += ["--number", str(number), "--prefix-tokens", str(prefix_tokens)]
            stack.enter_context(running(words, OTHER_CORES))
        for port in ports:
            wait_for(f"http://127.0.0.1:{port}/counts")
        yield ports


@contextlib.contextmanager
def nginx(folder: Path, upstreams: list[int]) -> Iterator[Way]:
    port, config = free_port(), folder / "nginx.conf"
    servers = " ".join(f"server 127.0.0.1:{upstream};" for upstream in upstreams)
    config.write_text(NGINX.format(folder=folder, servers=servers, port=port))
    with running([shutil.which("nginx") or "nginx", "-c", str(config)], [PROXY_CORE]) as process:
        wait_for(f"http://127.0.0.1:{port}/counts")
        yield Way("nginx", port, process)


@contextlib.contextmanager
def router(folder: Path, upstreams: list[int]) -> Iterator[Way]:
    """Ours; the first stub plays the API server that holds its routing."""
    port, internal = free_port(), free_port()
    kubeconfig, token = folder / "kubeconfig", folder / "token"
    kubeconfig.write_text(json.dumps(_kubeconfig(f"http://127.0.0.1:{upstreams[0]}")))
    token.write_text("benchmark")
    settings = {
        "NAMESPACE": "bench",
        "TOKEN_FILE": str(token),
        "HOST": "127.0.0.1",
        "CLIENT_PORT": str(port),
        "INTERNAL_PORT": str(internal),
        "ENDPOINT_PAUSE_SECONDS": "0",
        "DRAIN_TIMEOUT_SECONDS": "1",
    }
    env = {f"OPENINFERENCE_ROUTER_{name}": value for name, value in settings.items()}
    words = [sys.executable, "-m", "openinference_router"]
    with running(words, [PROXY_CORE], KUBECONFIG=str(kubeconfig), **env) as process:
        wait_for(f"http://127.0.0.1:{internal}/ready")
        yield Way("router", port, process)


@contextlib.contextmanager
def litellm(folder: Path, upstream: int, environment: Path) -> Iterator[Way]:
    """LiteLLM's proxy, one worker, its own defaults but for the log."""
    port, config = free_port(), folder / "litellm.json"
    backend = {"model": "openai/stub", "api_base": f"http://127.0.0.1:{upstream}/v1"}
    model = {"model_name": "stub", "litellm_params": {**backend, "api_key": "none"}}
    config.write_text(json.dumps({"model_list": [model]}))
    words = [str(environment / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
    words += ["--host", "127.0.0.1", "--num_workers", "1"]
    quiet = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with running(words, [PROXY_CORE], **quiet) as process:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness", seconds=180)
        yield Way("LiteLLM", port, process)


def install_litellm(folder: Path) -> Path:
    """A throw-away environment with the newest release; minutes."""
    environment = folder / "litellm"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    pip = environment / "bin" / "pip"
    subprocess.run([pip, "install", "--quiet", LITELLM], check=True)
    return environment


@contextlib.contextmanager
def running(words: list[str], cores: list[int], **env: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen(
        words, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.sched_setaffinity(process.pid, cores)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310
            return
        time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer")


def _kubeconfig(server: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
