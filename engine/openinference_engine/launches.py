"""Launches of steps: rows to the device, one graph replay for a bucket of them, tokens back.

Rows are padded to a bucket; a bucket is captured as a CUDA graph, and a replay is one call of the
host. What a step leaves on the device is what the next one needs, so a launch can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.decoder import MAX_ROWS, Decoder
from openinference_engine.rows import Row

BUCKETS = (1, 2, 4, 8, 16, 32, 64, MAX_ROWS)


@dataclass(frozen=True, slots=True)
class Flight:
    """A launch whose likeliest tokens are on their way to the host; `arrival` is None on a CPU."""

    bucket: int
    tokens: Tensor
    arrival: torch.cuda.Event | None

    def land(self) -> list[int]:
        """The likeliest token of each row of the bucket, -1 where no logit is a number."""
        if self.arrival is not None:
            self.arrival.synchronize()
        tokens: list[int] = self.tokens.tolist()
        return tokens


class Launches:
    """Brings rows to the device, queues their step, and starts the way back of its tokens."""

    def __init__(
        self, kernels: ModuleType, decoder: Decoder, uses_graphs: bool, overlaps: bool
    ) -> None:
        self._kernels = kernels
        self._decoder = decoder
        self._overlaps = overlaps
        self._is_on_gpu = decoder.inputs.tokens.is_cuda
        self._uses_graphs = uses_graphs and self._is_on_gpu
        self._host = decoder.inputs.host_copy()
        self._num_pages = [0] * MAX_ROWS  # of each row that the device knows
        self._uploaded: torch.cuda.Event | None = None
        self._replays: dict[int, Callable[[], None]] = {}
        # Two, because a launch may begin before the tokens of the last one are read.
        self._returns = [self._host.tokens.clone() for _ in range(2)]
        if self._is_on_gpu:
            self._returns = [tokens.pin_memory() for tokens in self._returns]

    def warm_up(self, max_rows: int) -> None:
        """Captures the graphs of steps of up to as many rows."""
        for bucket in BUCKETS:
            self.prepare(bucket)
            if bucket >= max_rows:
                break

    def launch(self, rows: list[Row]) -> Flight:
        bucket = next(size for size in BUCKETS if size >= len(rows))
        self.prepare(bucket)
        self._wait_for_upload()
        tokens, positions = self._host.tokens.numpy(), self._host.positions.numpy()
        positions[:] = -1
        for index, row in enumerate(rows):
            tokens[index], positions[index] = row.token_id, row.position
            self._num_pages[index] = 0
        self._write_pages(rows)
        self._decoder.inputs.upload(self._host)
        self._uploaded = self._record()
        return self.repeat(bucket)

    def repeat(self, bucket: int) -> Flight:
        """Queues a step over the rows that the device holds, each one token further."""
        self._replays[bucket]()
        self._returns.reverse()
        self._returns[0].copy_(self._decoder.inputs.tokens, non_blocking=True)
        return Flight(bucket, self._returns[0], self._record())

    def add_pages(self, rows: list[Row]) -> None:
        """Tells the device the pages that the rows it holds got meanwhile."""
        if any(
            len(row.block_ids) > known for row, known in zip(rows, self._num_pages, strict=False)
        ):
            self._wait_for_upload()
            self._write_pages(rows)
            self._decoder.inputs.upload_pages(self._host)
            self._uploaded = self._record()

    def prepare(self, bucket: int) -> None:
        if bucket not in self._replays:
            queue = self._captured if self._uses_graphs else self._eager
            self._replays[bucket] = queue(bucket)

    def _write_pages(self, rows: list[Row]) -> None:
        pages = self._host.pages.numpy()
        for index, row in enumerate(rows):
            known, total = self._num_pages[index], min(len(row.block_ids), pages.shape[1])
            pages[index, known:total] = row.block_ids[known:total]
            self._num_pages[index] = total

    def _wait_for_upload(self) -> None:
        if self._uploaded is not None:
            self._uploaded.synchronize()

    def _record(self) -> torch.cuda.Event | None:
        if not self._is_on_gpu:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def stream(self) -> Any:
        """The current one, as the kernels take it."""
        handle = torch.cuda.current_stream().cuda_stream if self._is_on_gpu else 0
        return self._kernels.Stream(handle, self._overlaps)

    def _eager(self, bucket: int) -> Callable[[], None]:
        return lambda: self._decoder.queue(bucket, self.stream())

    def _captured(self, bucket: int) -> Callable[[], None]:
        """A graph of the step. One inert run first: nothing may be loaded during a capture."""
        self._decoder.inputs.positions.fill_(-1)
        self._eager(bucket)()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._eager(bucket)()
        return graph.replay
