"""What one exchange between the GPUs of a tensor group costs: by marked words, and by NCCL.

    python -m benchmarks.gpu_exchanges [--ranks 2] [--rows 1,8,32,128,512,2048]

Microseconds, one after another in a CUDA graph, of the slower rank. "words" and "parts" are the
engine's ways: a product (of 128 columns here) sends what it makes, or leaves it for peers to read
(words, too, up to 16 rows), and what all have made is added to the residual. "alone" is the first
of one rank: the difference is what peers cost. NCCL does nothing but to sum bfloat16 of the same
shape (all-reduce) or to bring it (all-gather).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import torch
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ops.cuda_reference import SQUARE_COLUMNS
from openinference_engine.ranks.device_memory import DeviceMemory, Layout
from openinference_engine.ranks.team import Team
from openinference_engine.ranks.team_kernels import TeamKernels
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    PrefixStore,
    ProcessGroupGloo,
    TCPStore,
)

WIDTHS = (4096, 8192)
WAYS = ("words", "parts", "alone", "all-reduce", "all-gather")
TIMEOUT = timedelta(seconds=60)
_PRODUCT_COLUMNS = 128
_REPLAYS = 9


def measure(rank: int, ranks: int, rows: list[int], port: int, results: Connection) -> None:
    """One rank, on the GPU of its number; the first sends microseconds by width, rows and way."""
    torch.cuda.set_device(rank)
    device, kernels = torch.device("cuda", rank), load_kernels()
    store = TCPStore("127.0.0.1", port, None, rank == 0, TIMEOUT, wait_for_workers=False)
    group: Any = ProcessGroupGloo(store, rank, ranks, TIMEOUT)
    team = Team(rank, ranks, group)
    nccl = _nccl(PrefixStore("nccl", store), rank, ranks)
    for columns in WIDTHS:
        elements = max(rows) * columns
        layout = Layout(ranks * elements // 2, 1, 16, elements)
        memories = [DeviceMemory(kernels, of, layout, device) for of in (team, team, Team())]
        words, parts, alone = (
            TeamKernels(kernels, of, memory.view, many_elements=many)
            for of, memory, many in zip(
                (team, team, Team()), memories, (1 << 30, 0, 1 << 30), strict=True
            )
        )
        for count in rows:
            state = torch.zeros(count, columns, device=device)
            part = torch.randn(count, columns, device=device).bfloat16()
            everybodys = part.new_empty(ranks * count, columns)
            ways: list[tuple[Callable[[], object], TeamKernels | None]] = [
                (_summing(kernels, words, state), words),
                (_summing(kernels, parts, state), parts),
                (_summing(kernels, alone, state), alone),
                (partial(nccl.allreduce, [part], _on_this_stream(AllreduceOptions())), None),
                (
                    partial(
                        nccl._allgather_base, everybodys, part, _on_this_stream(AllgatherOptions())
                    ),
                    None,
                ),
            ]
            for way, (exchange, of) in zip(WAYS, ways, strict=True):
                own = torch.tensor([[microseconds(exchange, of, 64 if count <= 128 else 8)]])
                slowest = float(team.gather_rows(own, [1] * ranks).max())
                if rank == 0:
                    results.send((columns, count, way, slowest))
    team.sum(torch.zeros(1))  # the store must outlive the others' last exchange
    results.close()


def _nccl(store: PrefixStore, rank: int, ranks: int) -> Any:
    from torch._C._distributed_c10d import ProcessGroupNCCL

    return ProcessGroupNCCL(store, rank, ranks, ProcessGroupNCCL.Options())


def _on_this_stream(options: Any) -> Any:
    """Else NCCL has a stream of its own, which waits for this one and is waited for."""
    options.asyncOp = False
    return options


def _summing(kernels: ModuleType, team: TeamKernels, state: torch.Tensor) -> Callable[[], None]:
    (rows, columns), device = state.shape, state.device
    source = torch.zeros(rows, _PRODUCT_COLUMNS, dtype=torch.bfloat16, device=device)
    matrix = source.new_zeros(columns, _PRODUCT_COLUMNS)
    norm, x = source.new_ones(columns), source.new_zeros(rows, columns)
    squares = state.new_zeros(rows, columns // SQUARE_COLUMNS)

    def exchange() -> None:
        stream = kernels.Stream(torch.cuda.current_stream().cuda_stream, True)
        team.project_residual(source, matrix, norm, state, x, squares, stream)

    return exchange


def microseconds(exchange: Callable[[], object], team: TeamKernels | None, count: int) -> float:
    """Of one of `count` in a graph; a graph before it lets all ranks begin together."""

    def queue(count: int) -> None:
        for _ in range(count):
            exchange()
        if team is not None:
            team.end_step(team.Stream(torch.cuda.current_stream().cuda_stream, True))

    queue(1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        queue(count)
    times: list[float] = []
    for _ in range(_REPLAYS):
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        graph.replay()
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / count)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rows", default="1,8,16,32,64,128,512,2048", help="comma-separated")
    parser.add_argument("--port", type=int, default=29_519)
    options = parser.parse_args()
    rows = [int(count) for count in options.rows.split(",")]
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    start = partial(context.Process, target=measure)
    common = (options.ranks, rows, options.port, sender)
    for rank in range(options.ranks):
        start(args=(rank, *common), daemon=True).start()
    sender.close()  # else the end of all ranks would not be seen
    print(
        f"| µs, {options.ranks} GPUs | rows | {' | '.join(WAYS)} |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    for columns in WIDTHS:
        for count in rows:
            figures = " | ".join(f"{receiver.recv()[-1]:.1f}" for _ in WAYS)
            print(f"| {columns:,} | {count:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
