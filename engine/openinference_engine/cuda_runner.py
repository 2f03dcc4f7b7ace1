"""Runs steps with the CUDA kernels: Step → rows → one graph replay per 32 rows → tokens.

Every token of a step is a row of its own, whether it prefills or decodes, so one path computes
everything. Rows go in order, in slices of at most MAX_ROWS, padded to a bucket; a bucket is
captured as a CUDA graph when it is first used, and a replay is one call of the host. Greedy tokens
come from the kernels, all others are drawn from their logits by `sampling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch

from openinference_engine.decoder import MAX_ROWS, Decoder
from openinference_engine.errors import EngineError
from openinference_engine.ops.cuda_reference import PAGE_TOKENS
from openinference_engine.results import StepResult
from openinference_engine.sampling import is_plain_greedy, sample
from openinference_engine.scheduler import Chunk, Draw, Step

BUCKETS = (1, 2, 4, 8, 16, MAX_ROWS)


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a step; it draws when it is the last that its sequence has."""

    request_id: str
    token_id: int
    position: int
    block_ids: list[int]
    draw: Draw | None


class CudaRunner:
    def __init__(
        self,
        kernels: ModuleType,
        decoder: Decoder,
        *,
        uses_graphs: bool = True,
        overlaps: bool = True,
    ) -> None:
        """`uses_graphs`: replay captured graphs, where there is a GPU. `overlaps`: a kernel may
        start before its predecessor has ended. Neither changes a token.
        """
        self._kernels = kernels
        self._decoder = decoder
        self._overlaps = overlaps
        self._is_on_gpu = decoder.inputs.tokens.is_cuda
        self._uses_graphs = uses_graphs and self._is_on_gpu
        self._host = decoder.inputs.host_copy()
        self._uploaded: torch.cuda.Event | None = None
        self._replays: dict[int, Callable[[], None]] = {}

    def run(self, step: Step) -> StepResult:
        """Computes all chunks; draws one token for each that draws, and rates none yet.

        Raises EngineError if a row has no logit to choose from (NaN in weights or states).
        """
        rows = [row for chunk in step.chunks for row in rows_of(chunk)]
        tokens: list[int] = []
        for first in range(0, len(rows), MAX_ROWS):
            tokens += self._run_rows(rows[first : first + MAX_ROWS])
        return StepResult(tokens)

    @torch.inference_mode()
    def _run_rows(self, rows: list[Row]) -> list[int]:
        bucket = next(size for size in BUCKETS if size >= len(rows))
        replay = self._replay_of(bucket)
        self._upload(rows)
        replay()
        drawing = [index for index, row in enumerate(rows) if row.draw is not None]
        draws = [row.draw for row in rows if row.draw is not None]
        if not draws:
            return []
        likeliest = self._decoder.inputs.tokens[: len(rows)].tolist()
        for index in drawing:
            if likeliest[index] < 0:
                raise EngineError(f"request {rows[index].request_id}: its logits are not numbers")
        if all(is_plain_greedy(draw.params) for draw in draws):
            return [likeliest[index] for index in drawing]
        return sample(self._decoder.logits(bucket)[drawing].cpu(), draws)

    def _upload(self, rows: list[Row]) -> None:
        if self._uploaded is not None:
            self._uploaded.synchronize()
        tokens, positions, pages = (
            part.numpy() for part in (self._host.tokens, self._host.positions, self._host.pages)
        )
        positions[:] = -1
        for index, row in enumerate(rows):
            num_pages = row.position // PAGE_TOKENS + 1
            tokens[index], positions[index] = row.token_id, row.position
            pages[index, :num_pages] = row.block_ids[:num_pages]
        self._decoder.inputs.upload(self._host)
        if self._is_on_gpu:
            self._uploaded = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._uploaded.record()

    def _replay_of(self, bucket: int) -> Callable[[], None]:
        if bucket not in self._replays:
            queue = self._captured if self._uses_graphs else self._eager
            self._replays[bucket] = queue(bucket)
        return self._replays[bucket]

    def _eager(self, bucket: int) -> Callable[[], None]:
        def queue() -> None:
            handle = torch.cuda.current_stream().cuda_stream if self._is_on_gpu else 0
            self._decoder.queue(bucket, self._kernels.Stream(handle, self._overlaps))

        return queue

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
        )
        for index, token_id in enumerate(chunk.token_ids)
    ]
