"""Ranks that compute one thing together, and what they exchange for it.

Sums are made in rank order: every rank gets the same bits, and a row's do not depend on the rows
beside it (rings and trees of reductions promise neither). Device and backend are the group's.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openinference_engine.config import GroupConfig, ModelConfig
from openinference_engine.ranks.layout import Place, kv_heads_of, layers_of, place_of, share

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup, Work

_MOST_SENT = 64  # tensors that may wait for their receiver


@dataclass(frozen=True, slots=True)
class Team:
    """`size` ranks that hold parts of the same tensors; this one holds part `index`."""

    index: int = 0
    size: int = 1
    group: ProcessGroup | None = None

    def share(self, size: int, unit: int = 1) -> slice:
        """This rank's part of a dimension, in whole units."""
        return share(size, self.size, self.index, unit)

    def sum(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors of this shape, in the order of their indices."""
        if self.group is None:
            return part
        parts = [torch.empty_like(part) for _ in range(self.size)]
        self.group.allgather([parts], [part.contiguous()]).wait()
        total = parts[0]
        for other in parts[1:]:
            total += other
        return total


class Post:
    """Tensors from one rank to another, in order. Sending does not wait for the receiver."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._sent: deque[tuple[Work, Tensor]] = deque()  # a tensor is to live until it has left

    def send(self, tensor: Tensor, rank: int) -> None:
        self._sent.append((self._group.send([tensor], rank, 0), tensor))
        while self._sent and (self._sent[0][0].is_completed() or len(self._sent) > _MOST_SENT):
            self._sent.popleft()[0].wait()

    def receive(self, shape: tuple[int, int], rank: int) -> Tensor:
        """Waits for it. float32."""
        tensor = torch.empty(shape)
        self._group.recv([tensor], rank, 0).wait()
        return tensor


@dataclass(frozen=True)
class Ranks:
    """This rank among all of its group.

    tensor: slices of the same matrices. stage: all ranks that have the same layers, in rank order.
    """

    config: GroupConfig = field(default_factory=GroupConfig)
    rank: int = 0
    tensor: Team = Team()
    stage: Team = Team()

    @cached_property
    def place(self) -> Place:
        return place_of(self.rank, self.config)

    @property
    def is_first_stage(self) -> bool:
        return self.place.stage == 0

    @property
    def is_last_stage(self) -> bool:
        return self.place.stage == self.config.pipeline - 1

    def layers(self, model: ModelConfig) -> range:
        return layers_of(model, self.config.pipeline)[self.place.stage]

    def experts(self, count: int) -> range:
        """The experts that this rank has, or has a slice of."""
        part = share(count, self.config.expert, self.place.expert)
        return range(part.start, part.stop)

    def kv_heads(self, model: ModelConfig) -> slice:
        return kv_heads_of(model, self.tensor.size, self.tensor.index)


ALONE = Ranks()
