"""Launches of steps: rows to the device, one graph replay for a bucket of them, tokens back.

Log-probabilities that rows ask for come back with the tokens. Steps that need more than the
likeliest tokens have graphs of their own, so others pay nothing for it.

Rows are padded to a bucket; a bucket is captured as a CUDA graph, and a replay is one call of the
host. What a step leaves on the device is what the next one needs, so a launch can be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import torch
from torch import Tensor

from openinference_engine.chunks import Parts, send
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.prefill import Prefill
from openinference_engine.ratings import RATING_WORDS, unpack
from openinference_engine.results import TokenLogprobs
from openinference_engine.rows import Row
from openinference_engine.seats import Seats

BUCKETS = (1, 2, 4, 8, 16, 32, 64, MAX_ROWS)
LOST_TOKEN = -2  # kLostToken of csrc/cuda/choice.cu
Return = tuple[Tensor, Tensor, torch.cuda.Event | None]  # tokens, ratings and arrival of a `Flight`


class Kind(msgspec.Struct, frozen=True, array_like=True):
    """What one graph computes: a bucket of rows, whether any of them draws by a rule, and whether
    the token of any is rated."""

    bucket: int
    draws: bool
    rates: bool


@dataclass(frozen=True, slots=True)
class Flight:
    """A launch whose tokens are on their way to the host; `arrival` is None on a CPU.

    ratings: (MAX_ROWS, RATING_WORDS), if its kind rates.
    """

    kind: Kind
    tokens: Tensor
    ratings: Tensor
    arrival: torch.cuda.Event | None

    def land(self) -> list[int]:
        """The token of each row of the bucket, -1 where no logit is a number or no row is."""
        if self.arrival is not None:
            self.arrival.synchronize()
        tokens: list[int] = self.tokens.tolist()
        return tokens

    def logprobs(self, rows: list[Row]) -> list[TokenLogprobs | None]:
        """Of the tokens that have landed, where the device rated them."""
        if not self.kind.rates:
            return [None] * len(rows)
        return unpack(self.ratings[: len(rows)], [row.num_rated for row in rows])


class Launches:
    """Brings rows to the device, queues their step, and starts the way back of its tokens."""

    ends_prompts_with_head = False  # also those of whose rows nobody waits for one

    def __init__(
        self, kernels: ModuleType, decoder: Decoder, uses_graphs: bool, overlaps: bool
    ) -> None:
        self._kernels = kernels
        self._decoder = decoder
        self._overlaps = overlaps
        self._is_on_gpu = decoder.inputs.tokens.is_cuda
        self._uses_graphs = uses_graphs and self._is_on_gpu
        self._seats = Seats(kernels, decoder.inputs)
        self._replays: dict[Kind, Callable[[], None]] = {}
        # Two, because a launch may begin before the tokens of the last one are read.
        self._returns = deque(self._return() for _ in range(2))

    def warm_up(self, max_rows: int) -> None:
        """Captures the graphs of steps of up to as many rows."""
        for bucket in BUCKETS:
            for draws in (False, True):
                self._prepare(Kind(bucket, draws, rates=False))
            if bucket >= min(max_rows, self._decoder.most_rows):
                break

    def launch(self, rows: list[Row]) -> Flight:
        kind = self._kind_of(rows)
        self._prepare(kind)
        self._seats.place(rows, kind.bucket, self.stream())
        return self.repeat(kind)

    def launch_prompts(self, prefill: Prefill, parts: Parts) -> tuple[Tensor, Tensor]:
        """The states behind all rows, for `launch_head`."""
        return prefill.queue_parts(parts, self.stream())

    def launch_head(
        self, rows: list[Row], states: tuple[Tensor, Tensor], indices: list[int]
    ) -> Flight:
        """Only what chooses the rows' next tokens: `indices` of the last states of `prefill`."""
        kind, stream = msgspec.structs.replace(self._kind_of(rows), bucket=len(rows)), self.stream()
        self._seats.place(rows, len(rows), stream)
        self._queue_head(states, indices, kind)
        return self._fly(kind)

    def repeat(self, kind: Kind) -> Flight:
        """Queues a step over the rows that the device holds, each one token further."""
        self._replays[kind]()
        return self._fly(kind)

    def add_pages(self, rows: list[Row]) -> None:
        """Tells the device the pages that the rows it holds got meanwhile."""
        self._seats.extend(rows, self.stream())

    def stream(self) -> Any:
        """The current one, as the kernels take it."""
        handle = torch.cuda.current_stream().cuda_stream if self._is_on_gpu else 0
        return self._kernels.Stream(handle, self._overlaps)

    def _kind_of(self, rows: list[Row]) -> Kind:
        return Kind(
            next(size for size in BUCKETS if size >= len(rows)),
            draws=any(row.draws_by_rule for row in rows),
            rates=any(row.num_rated is not None for row in rows),
        )

    def _queue_head(self, states: tuple[Tensor, Tensor], indices: list[int], kind: Kind) -> None:
        x, sum_squares = states
        rows = send(torch.tensor(indices), x.device)
        last_states = x[rows], sum_squares[rows]
        self._decoder.queue_head(*last_states, self.stream(), kind.draws, kind.rates)

    def _fly(self, kind: Kind) -> Flight:
        flight = Flight(kind, *self._next_return())
        self._depart(flight)
        return flight

    def _next_return(self) -> Return:
        self._returns.rotate()
        return self._returns[0]

    def _depart(self, flight: Flight) -> None:
        flight.tokens.copy_(self._decoder.inputs.tokens, non_blocking=True)
        if flight.kind.rates:
            flight.ratings.copy_(self._decoder.ratings, non_blocking=True)
        if flight.arrival is not None:
            flight.arrival.record()

    def _return(self) -> Return:
        def words(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.int32, pin_memory=self._is_on_gpu)

        arrival = torch.cuda.Event() if self._is_on_gpu else None  # type: ignore[no-untyped-call]
        return words(MAX_ROWS), words(MAX_ROWS, RATING_WORDS), arrival

    def _prepare(self, kind: Kind) -> None:
        if kind not in self._replays:
            queue = self._captured if self._uses_graphs else self._eager
            self._replays[kind] = queue(kind)

    def _eager(self, kind: Kind) -> Callable[[], None]:
        return lambda: self._decoder.queue(kind.bucket, self.stream(), kind.draws, kind.rates)

    def _captured(self, kind: Kind) -> Callable[[], None]:
        """A graph of the step. One inert run first: nothing may be loaded during a capture."""
        self._decoder.inputs.positions.fill_(-1)
        self._eager(kind)()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._eager(kind)()
        return graph.replay
