"""What a step is told: int32 words on the device, of which the host sends only those that change.

A row of the inputs is a place in the batch; `seats` knows which request sits there. Tokens and
positions move on by themselves, and so does the history of a row with penalties.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine.rules import MOST_BIASES, RULE_WORDS

Words = npt.NDArray[np.int32]
_MOST_CHANGES = 1 << 15  # words that one launch sends


class RowInputs:
    """Views of one tensor on the device, all int32, for R rows.

    tokens, positions: (R,), a negative position is no row. pages: (R, pages_per_sequence).
    rules, biases, history: (R, …), as csrc/ops.h says of draw_token.
    """

    def __init__(
        self, rows: int, pages_per_sequence: int, num_positions: int, device: torch.device
    ) -> None:
        shapes = _shapes(rows, pages_per_sequence, num_positions)
        sizes = [math.prod(shape) for shape in shapes]
        self.words = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
        parts = torch.split(self.words, sizes)
        views: list[Tensor] = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        self.tokens, self.positions, self.pages, self.rules, self.biases, self.history = views


def input_bytes(rows: int, pages_per_sequence: int, num_positions: int) -> int:
    """What the inputs take on the device."""
    return 4 * sum(map(math.prod, _shapes(rows, pages_per_sequence, num_positions)))


def _shapes(rows: int, pages_per_sequence: int, num_positions: int) -> tuple[tuple[int, ...], ...]:
    return (
        (rows,),
        (rows,),
        (rows, pages_per_sequence),
        (rows, RULE_WORDS),
        (rows, MOST_BIASES, 2),
        (rows, num_positions),
    )


class Changes:
    """Collects words for the inputs in the host's memory, and sends them by one launch of `update`.

    The kernel reads them where they are, pinned; they are written anew once it has passed.
    """

    def __init__(self, kernels: ModuleType, inputs: RowInputs) -> None:
        self._kernels, self._inputs = kernels, inputs
        is_on_gpu = inputs.words.is_cuda
        self._staged = torch.zeros(2, _MOST_CHANGES, dtype=torch.int32, pin_memory=is_on_gpu)
        self._places, self._values = self._staged.numpy()
        self._count = 0
        self._passed = torch.cuda.Event() if is_on_gpu else None  # type: ignore[no-untyped-call]

    def put(
        self, tensor: Tensor, row: int, first: int, values: Words | list[int], stream: Any
    ) -> None:
        """Of `tensor`, one of the inputs, the words of a row from `first` on."""
        start = int(tensor.storage_offset()) + row * tensor.stride(0) + first
        for done in range(0, len(values), _MOST_CHANGES):
            part = values[done : done + _MOST_CHANGES]
            if self._count + len(part) > _MOST_CHANGES:
                self.send(stream)
            if self._count == 0 and self._passed is not None:
                self._passed.synchronize()
            end = self._count + len(part)
            self._places[self._count : end] = np.arange(start + done, start + done + len(part))
            self._values[self._count : end] = part
            self._count = end

    def send(self, stream: Any) -> None:
        if self._count == 0:
            return
        places, values = self._staged[:, : self._count]
        self._kernels.update(self._inputs.words, places, values, stream)
        if self._passed is not None:
            self._passed.record()
        self._count = 0
