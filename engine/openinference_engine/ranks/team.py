"""Ranks that compute one thing together, and what they exchange for it.

Every rank gets the same bits of an exchange, and a row's do not depend on the rows beside it (rings
and trees of reductions promise neither). Device and backend are the group's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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

    def share(self, size: int) -> slice:
        """This rank's part of a dimension."""
        return share(size, self.size, self.index)

    def sum(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors of this shape, in the order of their indices."""
        first, *others = self._gather(part, 0, [len(part)] * self.size)
        for other in others:
            first += other
        return first

    def gather_columns(self, part: Tensor, size: int) -> Tensor:
        """part: (T, this rank's share of `size`) → (T, size), everybody's."""
        if self.group is None:
            return part
        shares = [share(size, self.size, index) for index in range(self.size)]
        widths = [columns.stop - columns.start for columns in shares]
        return torch.cat(self._gather(part, 1, widths), dim=1)

    def gather_rows(self, part: Tensor, counts: list[int]) -> Tensor:
        """The rows of all ranks, which have so many, one rank's after another's."""
        return torch.cat(self._gather(part, 0, counts))

    def exchange_rows(self, rows: Tensor, to_send: list[int], to_receive: list[int]) -> Tensor:
        """So many of the rows to each rank, and so many from each, both in their order."""
        if self.group is None:
            return rows
        received = rows.new_empty(sum(to_receive), rows.shape[1])
        self.group.alltoall_base(received, rows.contiguous(), to_receive, to_send).wait()
        return received

    def _gather(self, part: Tensor, dim: int, sizes: list[int]) -> list[Tensor]:
        """Each rank's part, of its own size along one dimension; all travel as the largest."""
        if self.group is None:
            return [part]
        shape = list(part.shape)
        shape[dim] = max(sizes)
        padded = part.new_zeros(shape)
        padded.narrow(dim, 0, part.shape[dim]).copy_(part)
        parts = [torch.empty_like(padded) for _ in sizes]
        self.group.allgather([parts], [padded]).wait()
        return [each.narrow(dim, 0, size) for each, size in zip(parts, sizes, strict=True)]


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
        self.fill(tensor, rank)
        return tensor

    def fill(self, tensor: Tensor, rank: int) -> None:
        """With what comes. On a GPU the current stream waits for it, and the host does not."""
        self._group.recv([tensor], rank, 0).wait()


@dataclass(frozen=True)
class Ranks:
    """This rank among all of its group.

    tensor: slices of the same matrices. stage: all ranks that have the same layers, in rank order,
    and share their experts; on GPUs all matrices. everybody: the whole group. nccl: makes a group
    by its name, this rank's index in it and its size, for tensors of GPUs.
    """

    config: GroupConfig = field(default_factory=GroupConfig)
    rank: int = 0
    tensor: Team = Team()
    stage: Team = Team()
    everybody: Team = Team()
    nccl: Callable[[str, int, int], ProcessGroup] | None = None

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
        """Those that this rank has, of the experts of a layer."""
        part = self.stage.share(count)
        return range(part.start, part.stop)

    def kv_heads(self, model: ModelConfig) -> slice:
        return kv_heads_of(model, self.tensor.size, self.tensor.index)


ALONE = Ranks()
