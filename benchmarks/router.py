"""What the router adds to a request, beside nginx and LiteLLM: same upstream, same run, one core.

    python -m benchmarks.router [--only events …] [--rounds 3] [--litellm FOLDER]

Ways are measured in turns: straight to the upstream, through nginx, through the router, through
LiteLLM; what is added is the difference of percentiles to the straight way of the same round. The
proxy has one core, upstream and clients the others. `--litellm` names an environment made before
(else one is made and thrown away). A line of JSON for each figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import uvloop

from benchmarks import conversations, proxies
from benchmarks.open_loop import PROMPT, Client, Seen, at_rate
from benchmarks.proxies import Way

PARTS = ("latency", "streams", "events", "conversations")
RATE = 500
LITELLM_RATE = 50  # it saturates below 100 requests a second
RAMP_SECONDS = 2.0  # streams do not all begin at once
FAST_STREAMS = (200, 1000)
MAX_LAG_SECONDS = 0.1


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


async def added_latency(ways: list[Way], rounds: int, seconds: float) -> None:
    """Medians over the rounds of what each way adds to the time until the first event."""
    rates = {"LiteLLM": LITELLM_RATE}
    times: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    errors = dict.fromkeys(times, 0)
    cpu_ms: dict[str, list[float]] = {way.name: [] for way in ways}
    for way in ways:
        await at_rate(way.port, 20, 1)  # warm-up, thrown away
    for _ in range(rounds):
        for way in ways:
            before = way.cpu_seconds()
            seen = await at_rate(way.port, rates.get(way.name, RATE), seconds)
            whole = [one.first_seconds for one in seen if one.is_complete]
            times[way.name].append([one for one in whole if one is not None])
            errors[way.name] += len(seen) - len(whole)
            cpu_ms[way.name].append((way.cpu_seconds() - before) * 1000 / len(seen))
    for way in ways:
        added = {
            f"added p{percent} ms": round(
                1000
                * statistics.median(
                    percentile(there, percent) - percentile(base, percent)
                    for there, base in zip(times[way.name], times[ways[0].name], strict=True)
                ),
                2,
            )
            for percent in (50, 95, 99)
        }
        tell(way, rate=rates.get(way.name, RATE), **added, errors=errors[way.name],
             **{"CPU ms per request": round(statistics.median(cpu_ms[way.name]), 2)})  # fmt: skip


async def open_streams(port: int, count: int, per_second: float, seconds: float) -> list[Seen]:
    """So many streams at once, each with that many events a second."""
    client = Client(port)
    every = 1 / per_second
    how = {"first": every, "every": every, "events": int((seconds + RAMP_SECONDS) / every)}
    tasks = []
    for _ in range(count):
        await asyncio.sleep(RAMP_SECONDS / count)
        messages = [{"role": "user", "content": PROMPT}]
        tasks.append(asyncio.create_task(client.ask(messages, **how)))
    seen = await asyncio.gather(*tasks)
    client.close()
    return seen


async def many_streams(way: Way, count: int) -> None:
    """Two events a second each: errors, memory and CPU."""
    memory, cpu = way.memory_bytes(), way.cpu_seconds()
    holding = asyncio.create_task(open_streams(way.port, count, 2, 8))
    await asyncio.sleep(6)
    memory = way.memory_bytes() - memory
    seen = await holding
    lags = [lag for one in seen for lag in one.lags]
    tell(way, streams=count, errors=sum(not one.is_complete for one in seen),
         **{"KiB per stream": round(memory / count / 1024, 1),
            "CPU µs per event": round((way.cpu_seconds() - cpu) * 1e6 / len(lags), 1),
            "lag p95 ms": round(percentile(lags, 95) * 1000, 1)})  # fmt: skip


async def highest_event_rate(way: Way, streams: int) -> None:
    """Faster until an event in twenty is late, or fewer come than are due: the last rate held."""
    held, cost, rate = 0, 0.0, 3000.0
    while True:
        cpu = way.cpu_seconds()
        seen = await open_streams(way.port, streams, rate / streams, 2)
        lags = [lag for one in seen for lag in one.lags]
        reached = sum(len(one.lags) / (one.last_at - one.started_at) for one in seen)
        if percentile(lags, 95) > MAX_LAG_SECONDS or reached < 0.95 * rate:
            break
        held, rate = round(rate), rate * 1.4
        cost = (way.cpu_seconds() - cpu) * 1e6 / len(lags)
    tell(way, streams=streams, **{"events per second held": held,
         "CPU µs per event there": round(cost, 1)})  # fmt: skip


def tell(way: Way, **figures: object) -> None:
    print(json.dumps({"way": way.name, **figures}, ensure_ascii=False), flush=True)


@contextlib.contextmanager
def all_ways(folder: Path, arguments: argparse.Namespace) -> Iterator[list[Way]]:
    """Straight, nginx, router, and LiteLLM where it is measured."""
    with contextlib.ExitStack() as stack:
        ports = stack.enter_context(proxies.stubs())
        ways = [Way("straight", ports[0])]
        ways.append(stack.enter_context(proxies.nginx(folder, ports)))
        ways.append(stack.enter_context(proxies.router(folder, ports)))
        if "latency" in arguments.only:
            environment = arguments.litellm or proxies.install_litellm(folder)
            ways.append(stack.enter_context(proxies.litellm(folder, ports[0], environment)))
        yield ways


async def measure(ways: list[Way], arguments: argparse.Namespace) -> None:
    if "latency" in arguments.only:
        await added_latency(ways, arguments.rounds, arguments.seconds)
    for way in ways[1:3] if "streams" in arguments.only else ():
        for count in (500, 2000):
            await many_streams(way, count)
    for way in ways[1:3] if "events" in arguments.only else ():
        for count in FAST_STREAMS:
            await highest_event_rate(way, count)


def measure_conversations(folder: Path) -> None:
    """The router's choice beside round robin, on the same trace and equally empty caches."""
    for start in (proxies.nginx, proxies.router):
        with proxies.stubs(4, prefix_tokens=40_000) as ports, start(folder, ports) as way:
            times = uvloop.run(conversations.replay(way.port))
            counts = [read_counts(port) for port in ports]
        rate = sum(count["hit"] for count in counts) / sum(count["asked"] for count in counts)
        ttft = {f"TTFT p{p} ms": round(percentile(times, p) * 1000) for p in (50, 95)}
        policy = "round robin" if way.name == "nginx" else "PrefixAware"
        tell(way, policy=policy, **{"prefix hit rate": round(rate, 3), **ttft})


def read_counts(port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/counts") as response:
        return dict(json.load(response))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", type=Path, help="an environment that has LiteLLM's proxy")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.sched_setaffinity(0, proxies.OTHER_CORES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with all_ways(folder, arguments) as ways:
            uvloop.run(measure(ways, arguments))
        if "conversations" in arguments.only:
            measure_conversations(folder)


if __name__ == "__main__":
    main()
