"""Which request sits in which row of the inputs, and what the device knows of it already."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from openinference_engine.inputs import Changes, RowInputs
from openinference_engine.request import SamplingParams
from openinference_engine.rows import Row
from openinference_engine.rules import RULE_WORDS, counts_history, pack_biases, pack_rule
from openinference_engine.step import Draw


@dataclass(slots=True)
class Seat:
    """block_ids: the request's own list, by which it is known. params: whose rule is there, if any.

    num_pages, num_history: how many of its pages and tokens were sent.
    """

    block_ids: list[int] | None = None
    params: SamplingParams | None = None
    num_pages: int = 0
    num_history: int = 0


class Seats:
    def __init__(self, kernels: ModuleType, inputs: RowInputs) -> None:
        self._inputs = inputs
        self._changes = Changes(kernels, inputs)
        self._seats = [Seat() for _ in range(len(inputs.tokens))]

    def place(self, rows: list[Row], bucket: int, stream: Any) -> None:
        """Queues what makes the first rows of the inputs these; the rest of `bucket` are none."""
        put, inputs = self._changes.put, self._inputs
        padding = [-1] * (bucket - len(rows))
        put(inputs.tokens, 0, 0, [row.token_id for row in rows], stream)
        put(inputs.positions, 0, 0, [row.position for row in rows] + padding, stream)
        for index, row in enumerate(rows):
            self._place(index, row, stream)
        self._changes.send(stream)

    def extend(self, rows: list[Row], stream: Any) -> None:
        """Queues the pages that the seated rows got meanwhile."""
        for index, row in enumerate(rows):
            self._put_pages(index, row.block_ids, stream)
        self._changes.send(stream)

    def _place(self, index: int, row: Row, stream: Any) -> None:
        has_rule = row.draws_by_rule or row.num_rated is not None
        seat, draw = self._seats[index], row.draw if has_rule else None
        is_new = seat.block_ids is not row.block_ids
        if is_new:
            seat = self._seats[index] = Seat(row.block_ids, seat.params)
        self._put_pages(index, row.block_ids, stream)
        if draw is None:
            if seat.params is not None:
                self._changes.put(
                    self._inputs.rules, index, 0, np.zeros(RULE_WORDS, np.int32), stream
                )
                seat.params = None
            return
        if is_new or seat.params is not draw.params:
            self._put_rule(index, draw, stream)
        if counts_history(draw.params):
            new = draw.history[seat.num_history :]
            self._changes.put(self._inputs.history, index, seat.num_history, new, stream)
            seat.num_history = len(draw.history)

    def _put_rule(self, index: int, draw: Draw, stream: Any) -> None:
        rule = pack_rule(draw.params, draw.num_prompt)
        self._changes.put(self._inputs.rules, index, 0, rule, stream)
        self._changes.put(self._inputs.biases, index, 0, pack_biases(draw.params), stream)
        self._seats[index].params = draw.params

    def _put_pages(self, index: int, block_ids: list[int], stream: Any) -> None:
        seat = self._seats[index]
        total = min(len(block_ids), self._inputs.pages.shape[1])
        if total > seat.num_pages:
            new = block_ids[seat.num_pages : total]
            self._changes.put(self._inputs.pages, index, seat.num_pages, new, stream)
            seat.num_pages = total
