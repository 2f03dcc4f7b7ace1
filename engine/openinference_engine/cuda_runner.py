"""Runs steps with the CUDA kernels: Step → rows → one graph replay per 128 rows → tokens.

Every token of a step is a row of its own, whether it prefills or decodes. Rows go in order, in
slices of at most MAX_ROWS, padded to a bucket; a bucket is captured as a CUDA graph, and a replay
is one call of the host. Where there is a `Prefill`, it takes steps with long chunks, all at once.
The kernels draw the tokens, but for rules that only the host knows (`rules.is_drawn_on_device`):
those are drawn from their logits by `sampling`.

While the kernels draw all tokens the device runs ahead: the next step is launched on what the last
one left on the device before its tokens are read, so the host's work hides behind it. If the
scheduler then asks for another step (a request ended or came), the result is thrown away. What it
wrote is harmless: slots behind each sequence's end, written anew by whoever gets them, in a later
launch of the same stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import torch

from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.errors import EngineError
from openinference_engine.launches import Flight, Launches
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.outcomes import Outcome, outcome_of, require_numbers, result_of
from openinference_engine.prefill import Prefill
from openinference_engine.results import StepResult
from openinference_engine.rows import Row, rows_of
from openinference_engine.step import Chunk, Step

_LONG_CHUNK = 33  # rows of one sequence: they had better share the keys that they read
_Launch = Callable[[], Flight]


@dataclass(slots=True)
class _Begun:
    """A step, and what its rows have brought so far. under_way: indices of the rows of a launch."""

    step: Step
    rows: list[Row]
    outcomes: list[Outcome]
    under_way: tuple[Sequence[int], Flight] | None = None
    is_one_launch: bool = False  # of rows that decode, which the device may repeat


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
        make_launches: Callable[[ModuleType, Decoder, bool, bool], Launches] = Launches,
    ) -> None:
        """`prefill`: for prompts, on GPUs that have its kernels. `make_launches`: for a group's.

        None of the switches changes a token. `uses_graphs`: replay captured graphs, where there
        is a GPU. `overlaps`: a kernel may start before its predecessor has ended. `runs_ahead`:
        launch a step before the tokens of the last one are read.
        """
        self._decoder = decoder
        self._prefill = prefill
        self._runs_ahead = runs_ahead
        self._launches = make_launches(kernels, decoder, uses_graphs, overlaps)
        self._begun = _Begun(Step([]), [], [])
        self._last: tuple[list[Row], list[int]] = ([], [])  # rows, and the tokens they drew
        self._ahead: Flight | None = None  # the step behind `_last`

    def warm_up(self, max_rows: int) -> None:
        """Captures the graphs of steps that decode up to as many rows."""
        self._launches.warm_up(max_rows)

    def run(self, step: Step) -> StepResult:
        """Computes all chunks, draws a token where one is due and rates what is to be rated.

        Raises EngineError if a row that is drawn behind or rated has no logit to choose from (NaN
        in weights or states), if another rank did not send its part, or if the GPU fails.
        """
        self.begin(step)
        return self.finish()

    @torch.inference_mode()
    def begin(self, step: Step) -> None:
        """Launches the step: its last part, if it is so long that it has several."""
        rows = [row for chunk in step.chunks for row in rows_of(chunk)]
        self._begun = _Begun(step, rows, [Outcome(-1)] * len(rows))
        with _failures_of(step):
            for indices, launch in self._parts(step, rows):
                self._land()
                self._begun.under_way = indices, launch()

    @torch.inference_mode()
    def finish(self) -> StepResult:
        """Waits for the tokens of the step that was begun."""
        begun = self._begun
        with _failures_of(begun.step):
            self._land(may_run_ahead=begun.is_one_launch)
        return result_of(begun.step, begun.rows, begun.outcomes)

    @property
    def is_ahead(self) -> bool:
        """Whether the device runs a step that nobody has asked for yet."""
        return self._ahead is not None

    def has_begun(self, step: Step) -> bool:
        """Whether that step is of the same sequences."""
        rows = self._last[0] if self.is_ahead else []
        return len(rows) == len(step.chunks) and all(
            row.block_ids is chunk.block_ids for row, chunk in zip(rows, step.chunks, strict=True)
        )

    def _parts(self, step: Step, rows: list[Row]) -> Iterator[tuple[Sequence[int], _Launch]]:
        """Indices of rows and what launches them, one part after another."""
        flight, self._ahead = self._ahead, None
        launches, most = self._launches, self._decoder.most_rows
        if flight is not None and self._is_as_expected(rows):
            launches.add_pages(rows)
            self._begun.is_one_launch = True
            yield range(len(rows)), lambda: flight
        elif self._prefill is not None and _is_for(self._prefill, step):
            yield from self._prompt_parts(self._prefill, step, rows)
        else:
            self._begun.is_one_launch = len(rows) <= most
            for first in range(0, len(rows), most):
                part = range(first, min(first + most, len(rows)))
                yield part, partial(launches.launch, rows[part.start : part.stop])

    def _prompt_parts(
        self, prefill: Prefill, step: Step, rows: list[Row]
    ) -> Iterator[tuple[Sequence[int], _Launch]]:
        """All rows at once, then the head over those that somebody waits for."""
        parts = [
            (chunk.token_ids, chunk.start, chunk.block_ids[: _num_pages(chunk)])
            for chunk in step.chunks
        ]
        states = self._launches.launch_prompts(prefill, parts)
        wanted = [index for index, row in enumerate(rows) if row.is_awaited]
        if not wanted and self._launches.ends_prompts_with_head:
            wanted = [len(rows) - 1]
        for first in range(0, len(wanted), MAX_ROWS):
            part = wanted[first : first + MAX_ROWS]
            of_part = [rows[index] for index in part]
            yield part, partial(self._launches.launch_head, of_part, states, part)

    def _is_as_expected(self, rows: list[Row]) -> bool:
        last_rows, tokens = self._last
        return len(rows) == len(last_rows) and all(
            row.follows(last, token)
            for row, last, token in zip(rows, last_rows, tokens, strict=True)
        )

    def _land(self, may_run_ahead: bool = False) -> None:
        """Takes the outcomes of the part under way, if there is one."""
        begun = self._begun
        if begun.under_way is None:
            return
        (indices, flight), begun.under_way = begun.under_way, None
        rows = [begun.rows[index] for index in indices]
        limit = self._decoder.num_positions
        if may_run_ahead and self._runs_ahead and all(row.may_be_followed(limit) for row in rows):
            self._ahead = self._launches.repeat(flight.kind)
        if not any(row.is_awaited for row in rows):
            return
        outcomes = self._outcomes(rows, flight)
        for index, outcome in zip(indices, outcomes, strict=True):
            begun.outcomes[index] = outcome
        self._last = rows, [outcome.token_id for outcome in outcomes]

    def _outcomes(self, rows: list[Row], flight: Flight) -> list[Outcome]:
        tokens = flight.land()[: len(rows)]
        require_numbers(rows, tokens)
        outcomes = list(map(Outcome, tokens, flight.logprobs(rows)))
        asking = [index for index, row in enumerate(rows) if row.needs_logits]
        if asking:
            logits = self._decoder.logits(flight.kind.bucket)[asking].cpu()
            for index, row_logits in zip(asking, logits, strict=True):
                outcomes[index] = outcome_of(rows[index], row_logits[None], tokens[index])
        return outcomes


@contextmanager
def _failures_of(step: Step) -> Iterator[None]:
    """Says of a failure of the GPU in which step it showed.

    A kernel fails behind its launch, and whatever asks the GPU next hears of it: no op is to blame
    for what it reports, unless each launch waits for its kernel.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # no fault, and says itself what there was no room for
    except RuntimeError as error:  # of torch, or of a launch
        reason = str(error).partition("\n")[0]
        raise EngineError(
            f"the GPU failed in or before a step (rows: {step.num_tokens}, sequences: "
            f"{len(step.chunks)}, decoding: {step.num_decodes}): {reason}; to hear which op it is, "
            "start with CUDA_LAUNCH_BLOCKING=1 in the environment"
        ) from error


def _is_for(prefill: Prefill, step: Step) -> bool:
    is_long = any(len(chunk.token_ids) >= _LONG_CHUNK for chunk in step.chunks)
    return is_long and step.num_tokens <= prefill.max_rows


def _num_pages(chunk: Chunk) -> int:
    return -(-(chunk.start + len(chunk.token_ids)) // PAGE_TOKENS)
