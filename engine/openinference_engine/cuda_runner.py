"""Runs steps with the CUDA kernels: Step → rows → one graph replay per 128 rows → tokens.

Every token of a step is a row of its own, whether it prefills or decodes. Rows go in order, in
slices of at most MAX_ROWS, padded to a bucket; a bucket is captured as a CUDA graph, and a replay
is one call of the host. Where there is a `Prefill`, it takes steps with long chunks, all at once.
Greedy tokens come from the kernels, all others are drawn from their logits by `sampling`.

While all rows decode greedily the device runs ahead: the next step is launched on what the last one
left on the device before its tokens are read, so the host's work hides behind the device's. If the
scheduler then asks for another step (a request ended or came), the result is thrown away. What it
wrote is harmless: slots behind each sequence's end, written anew by whoever gets them, in a later
launch of the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.decoder import MAX_ROWS, Decoder
from openinference_engine.errors import EngineError
from openinference_engine.ops.cuda_reference import PAGE_TOKENS
from openinference_engine.prefill import Prefill, chunks_of
from openinference_engine.results import StepResult, TokenLogprobs
from openinference_engine.sampling import is_plain_greedy, rate, rate_drawn, sample
from openinference_engine.scheduler import Chunk, Draw, Step

BUCKETS = (1, 2, 4, 8, 16, 32, 64, MAX_ROWS)
_LONG_CHUNK = 33  # rows of one sequence: they had better share the keys that they read


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a step; it draws when it is the last that its sequence has.

    target: a token whose log-probability is wanted behind this one, beside the `num_top` likeliest.
    """

    request_id: str
    token_id: int
    position: int
    block_ids: list[int]  # the request's own list, which grows
    draw: Draw | None
    target: int | None = None
    num_top: int = 0

    @property
    def is_awaited(self) -> bool:
        return self.draw is not None or self.target is not None

    @property
    def needs_logits(self) -> bool:
        if self.target is not None:
            return True
        return self.draw is not None and not _is_greedy(self.draw)

    def may_be_followed(self, num_positions: int) -> bool:
        """Whether the next step is likely to compute this row's successor, whose page is known."""
        if self.draw is None or self.needs_logits:
            return False
        num_outputs = len(self.draw.history) - self.draw.num_prompt
        has_page = (self.position + 1) // PAGE_TOKENS < len(self.block_ids)
        is_inside = self.position + 1 < num_positions
        return has_page and is_inside and num_outputs + 1 < self.draw.params.max_tokens

    def follows(self, other: Row, token_id: int) -> bool:
        """Whether this is what `other` becomes by drawing `token_id`, and draws greedily too."""
        return (
            self.block_ids is other.block_ids
            and self.position == other.position + 1
            and self.token_id == token_id
            and self.draw is not None
            and not self.needs_logits
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row brought: the token drawn and how likely it was, and that of its target."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    rated: TokenLogprobs | None = None


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


class CudaRunner:
    def __init__(
        self,
        kernels: ModuleType,
        decoder: Decoder,
        *,
        prefill: Prefill | None = None,
        uses_graphs: bool = True,
        overlaps: bool = True,
        runs_ahead: bool = True,
    ) -> None:
        """`prefill`: for prompts, on GPUs that have its kernels.

        None of the switches changes a token. `uses_graphs`: replay captured graphs, where there
        is a GPU. `overlaps`: a kernel may start before its predecessor has ended. `runs_ahead`:
        launch a step before the tokens of the last one are read.
        """
        self._decoder = decoder
        self._prefill = prefill
        self._runs_ahead = runs_ahead
        self._launches = Launches(kernels, decoder, uses_graphs, overlaps)
        self._last: tuple[list[Row], list[int]] = ([], [])  # rows, and the tokens they drew
        self._ahead: Flight | None = None  # the step behind `_last`

    def warm_up(self, max_rows: int) -> None:
        """Captures the graphs of steps that decode up to as many rows."""
        for bucket in BUCKETS:
            self._launches.prepare(bucket)
            if bucket >= max_rows:
                break

    @torch.inference_mode()
    def run(self, step: Step) -> StepResult:
        """Computes all chunks, draws a token where one is due and rates what is to be rated.

        Raises EngineError if a row has no logit to choose from (NaN in weights or states).
        """
        rows = [row for chunk in step.chunks for row in rows_of(chunk)]
        flight, self._ahead = self._ahead, None
        if flight is not None and self._is_as_expected(rows):
            self._launches.add_pages(rows)
            outcomes = self._finish(rows, flight, may_run_ahead=True)
        elif self._prefill is not None and _is_for(self._prefill, step):
            outcomes = self._run_prompts(self._prefill, step, rows)
        else:
            outcomes = []
            for first in range(0, len(rows), MAX_ROWS):
                part = rows[first : first + MAX_ROWS]
                flight = self._launches.launch(part)
                outcomes += self._finish(part, flight, may_run_ahead=len(rows) <= MAX_ROWS)
        return _result(step, rows, outcomes)

    def _is_as_expected(self, rows: list[Row]) -> bool:
        last_rows, tokens = self._last
        return len(rows) == len(last_rows) and all(
            row.follows(last, token)
            for row, last, token in zip(rows, last_rows, tokens, strict=True)
        )

    def _run_prompts(self, prefill: Prefill, step: Step, rows: list[Row]) -> list[Outcome]:
        """All rows at once, then the head over those that somebody waits for."""
        stream = self._launches.stream()
        parts = [
            (chunk.token_ids, chunk.start, chunk.block_ids[: _num_pages(chunk)])
            for chunk in step.chunks
        ]
        x, sum_squares = prefill.queue(chunks_of(parts, self._decoder.inputs.tokens.device), stream)
        outcomes = [Outcome(-1)] * len(rows)
        wanted = [index for index, row in enumerate(rows) if row.is_awaited]
        for first in range(0, len(wanted), MAX_ROWS):
            part = wanted[first : first + MAX_ROWS]
            tokens: list[int] = self._decoder.choose(x[part], sum_squares[part], stream).tolist()
            of_part = [rows[index] for index in part]
            _require_numbers(of_part, tokens)
            for index, outcome in zip(
                part, self._outcomes(of_part, tokens, len(part)), strict=True
            ):
                outcomes[index] = outcome
        return outcomes

    def _finish(self, rows: list[Row], flight: Flight, may_run_ahead: bool) -> list[Outcome]:
        limit = self._decoder.num_positions
        if may_run_ahead and self._runs_ahead and all(row.may_be_followed(limit) for row in rows):
            self._ahead = self._launches.repeat(flight.bucket)
        if not any(row.is_awaited for row in rows):
            return [Outcome(-1)] * len(rows)
        tokens = flight.land()[: len(rows)]
        self._last = rows, tokens
        _require_numbers(rows, tokens)
        return self._outcomes(rows, tokens, flight.bucket)

    def _outcomes(self, rows: list[Row], tokens: list[int], bucket: int) -> list[Outcome]:
        asking = [index for index, row in enumerate(rows) if row.needs_logits]
        outcomes = [Outcome(token) for token in tokens]
        if asking:
            logits = self._decoder.logits(bucket)[asking].cpu()
            for index, row_logits in zip(asking, logits, strict=True):
                outcomes[index] = _outcome(rows[index], row_logits[None], tokens[index])
        return outcomes


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


def rows_of(chunk: Chunk) -> list[Row]:
    last = len(chunk.token_ids) - 1
    return [
        Row(
            chunk.request_id,
            token_id,
            chunk.start + index,
            chunk.block_ids,
            chunk.draw if index == last else None,
            chunk.targets[index] if index < len(chunk.targets) else None,
            chunk.num_top,
        )
        for index, token_id in enumerate(chunk.token_ids)
    ]


def _is_for(prefill: Prefill, step: Step) -> bool:
    is_long = any(len(chunk.token_ids) >= _LONG_CHUNK for chunk in step.chunks)
    return is_long and step.num_tokens <= prefill.max_rows


def _num_pages(chunk: Chunk) -> int:
    return -(-(chunk.start + len(chunk.token_ids)) // PAGE_TOKENS)


def _require_numbers(rows: list[Row], tokens: list[int]) -> None:
    for row, token in zip(rows, tokens, strict=True):
        if token < 0 and row.draw is not None:
            raise EngineError(f"request {row.request_id}: its logits are not numbers")


def _is_greedy(draw: Draw) -> bool:
    return (
        is_plain_greedy(draw.params)
        and draw.constraint is None
        and draw.params.num_logprobs is None
    )


def _outcome(row: Row, logits: Tensor, likeliest: int) -> Outcome:
    """logits: (1, vocab), of this row."""
    rated = None if row.target is None else rate(logits, [row.target], row.num_top)[0]
    if row.draw is None:
        return Outcome(likeliest, rated=rated)
    token_id = sample(logits, [row.draw])[0]
    return Outcome(token_id, rate_drawn(logits, [token_id], [row.draw])[0], rated)


def _result(step: Step, rows: list[Row], outcomes: list[Outcome]) -> StepResult:
    drawn = [outcome for row, outcome in zip(rows, outcomes, strict=True) if row.draw is not None]
    rated = _rated_by_chunk(step, iter(outcomes))
    return StepResult(
        [outcome.token_id for outcome in drawn],
        [outcome.logprobs for outcome in drawn],
        list(rated),
    )


def _rated_by_chunk(step: Step, outcomes: Iterator[Outcome]) -> Iterator[list[TokenLogprobs]]:
    for chunk in step.chunks:
        of_chunk = list(islice(outcomes, len(chunk.token_ids)))
        if chunk.targets:
            yield [outcome.rated for outcome in of_chunk if outcome.rated is not None]
