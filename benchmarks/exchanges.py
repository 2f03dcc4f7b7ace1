"""How ranks best sum what their experts made of a step's tokens: each way, beside the other.

    python -m benchmarks.exchanges [--ranks 2] [--rounds 50]

Every rank gets all terms in one exchange, or each sums its part of the tokens and the sums go
around: two exchanges that carry less. Ranks are processes on loopback, experts are drawn at random;
no model computes. The engine goes the second way from `ranks.combine.MANY_TOKENS` on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch
from openinference_engine.ranks import combine as ways
from openinference_engine.ranks.team import Team
from torch._C._distributed_c10d import ProcessGroupGloo, TCPStore

TOKENS = (4, 16, 32, 64, 256)
SHAPES = {  # hidden size, experts of a layer, experts of a token
    "Mixtral-8x7B": (4096, 8, 2),
    "Qwen3-30B-A3B": (2048, 128, 8),
}
WAYS = {"all terms to all": 10**9, "all to all": 0}
TIMEOUT = timedelta(seconds=30)


def measure(rank: int, ranks: int, rounds: int, port: int, results: Connection) -> None:
    """One rank; the first sends microseconds by shape, tokens and way."""
    torch.set_num_threads(1)
    store = TCPStore("127.0.0.1", port, None, rank == 0, TIMEOUT, wait_for_workers=False)
    group: Any = ProcessGroupGloo(store, rank, ranks, TIMEOUT)
    team = Team(rank, ranks, group)
    for shape in SHAPES:
        for tokens in TOKENS:
            for way in WAYS:
                found = median_microseconds(team, shape, tokens, WAYS[way], rounds)
                if rank == 0:
                    results.send((shape, tokens, way, found))
    team.sum(torch.zeros(1))  # the store must outlive the others' last exchange
    results.close()


def median_microseconds(team: Team, shape: str, tokens: int, limit: int, rounds: int) -> float:
    hidden, experts, chosen = SHAPES[shape]
    ways.MANY_TOKENS = limit
    generator = torch.Generator().manual_seed(tokens)
    seconds = []
    for _ in range(rounds + 5):
        drawn = torch.rand(tokens, experts, generator=generator).argsort(1)[:, :chosen]
        owners = drawn.sort(1).values * team.size // experts
        terms = torch.ones(int((owners == team.index).sum()), hidden)
        team.sum(torch.zeros(1))  # all begin together
        begun = time.perf_counter()
        ways.combine(team, terms, owners)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[5:]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--port", type=int, default=29_517)
    options = parser.parse_args()
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    start = partial(context.Process, target=measure)
    common = (options.ranks, options.rounds, options.port, sender)
    processes = [start(args=(rank, *common), daemon=True) for rank in range(options.ranks)]
    for process in processes:
        process.start()
    print(f"| µs, {options.ranks} ranks | tokens | {' | '.join(WAYS)} |\n|---|--:|--:|--:|")
    for shape in SHAPES:
        for tokens in TOKENS:
            figures = " | ".join(f"{receiver.recv()[-1]:,.0f}" for _ in WAYS)
            print(f"| {shape} | {tokens} | {figures} |", flush=True)
    for process in processes:
        process.join()


if __name__ == "__main__":
    main()
