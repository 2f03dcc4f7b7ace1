"""Ways by NCCL between ranks of neighbouring stages that are in different pods.

Rows go by one way in all lanes, for they are taken in the order in which they are pushed. Choices
have a way for each lane: the first stage takes those of several lanes in an order of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from openinference_engine.errors import StartError
from openinference_engine.ops.cuda_reference import SQUARE_COLUMNS
from openinference_engine.ranks.layout import rank_at
from openinference_engine.ranks.team import Post, Ranks

Way = Callable[[Tensor], None]  # sends bytes that lie here, or fills them with those that come
Ways = list[Way | None]  # of each lane
NEAR: Ways = [None]  # between stages of one pod, which write into each other's memory


def row_words(hidden_size: int) -> int:
    """Of a row on its way: states, the sums of their squares and the position (csrc/ops.h)."""
    return hidden_size // SQUARE_COLUMNS * (SQUARE_COLUMNS + 2)


class HopEnd:
    """Where a hop begins or ends in one lane. By `way` goes what kernels have left in `space`, or
    are to find there; without one nothing is to be done.
    """

    def __init__(self, way: Way | None, space: Tensor) -> None:
        self._way, self._space = way, space
        self._noted = 0

    @property
    def is_far(self) -> bool:
        """In another pod, that is, where marks would only be more to carry."""
        return self._way is not None

    def rows(self, rows: int, hidden_size: int) -> Tensor:
        """The space for them, as `pack_rows` and `unpack_rows` take it."""
        words = self._space.view(torch.int32)[: rows * row_words(hidden_size)]
        return words.view(rows, -1)

    def carry(self, num_bytes: int) -> None:
        """Of a graph that is captured only how much would go is noted."""
        if self._way is None or not num_bytes:
            return
        if self._space.is_cuda and torch.cuda.is_current_stream_capturing():
            self._noted = num_bytes
        else:
            self._way(self._space[:num_bytes])

    def noted(self) -> int:
        """Bytes, since it was asked last; 0 for none."""
        noted, self._noted = self._noted, 0
        return noted


def neighbour(ranks: Ranks, step: int) -> int:
    """The rank of the same index in the stage before (-1) or behind (1); the last has the first."""
    config, place = ranks.config, ranks.place
    stage = (place.stage + step) % config.pipeline
    return rank_at(stage, place.expert, place.tensor, config)


def open_ways(
    ranks: Ranks, device: torch.device, is_far_before: bool, is_far_behind: bool
) -> tuple[Ways, Ways]:
    """From the stage before, and to the one behind. Raises StartError if NCCL does not get there.

    Both ends of a way open it at the same time, so all do it in the order of the stages that send.
    """
    stages, stage = ranks.config.pipeline, ranks.place.stage
    before, behind = NEAR * stages, NEAR * stages
    ends = [((stage - 1) % stages, is_far_before, before), (stage, is_far_behind, behind)]
    for sender, is_far, ways in sorted(ends, key=lambda end: end[0]):
        if is_far:
            ways[:] = _open(ranks, device, sender)
    return before, behind


def _open(ranks: Ranks, device: torch.device, sender: int) -> Ways:
    """sender: the stage that sends, which is this rank's or the one before."""
    stages, is_sender = ranks.config.pipeline, sender == ranks.place.stage
    other = neighbour(ranks, 1 if is_sender else -1)
    first = ranks.rank if is_sender else other
    count = stages if sender == stages - 1 else 1
    try:
        ways: Ways = [
            _way(ranks, f"from-{first}-{number}", device, is_sender) for number in range(count)
        ]
    except RuntimeError as error:
        raise StartError(
            f"rank {ranks.rank} and rank {other} are in different pods, and NCCL does not get from "
            f"one to the other ({error}); NCCL_DEBUG=INFO says what it tried"
        ) from error
    return ways * (stages // count)


def _way(ranks: Ranks, name: str, device: torch.device, is_sender: bool) -> Way:
    if ranks.nccl is None:
        raise RuntimeError("this torch has no NCCL")
    post = Post(ranks.nccl(name, 0 if is_sender else 1, 2))
    way: Way = partial(post.send, rank=1) if is_sender else partial(post.fill, rank=0)
    way(torch.zeros(1, device=device))  # NCCL connects with the first that goes
    return way
