"""Memory of this rank's GPU that its peers map, and the way of words where they cannot.

One allocation holds two inboxes, the whole logits, the state and parts of products; ranks tell
each other its handle. Where they cannot map it, one inbox is enough, and the other has room for the
parts that NCCL brings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.ranks.team import Team
from openinference_engine.ranks.team_kernels import Gatherer, TeamMemory

_WORD_BYTES, _PART_BYTES, _COPIES, _STATE_BYTES = 8, 2, 2, 16
log = logging.getLogger("openinference.ranks")


@dataclass(frozen=True, slots=True)
class Layout:
    """Bytes from the start of the allocation on: inboxes, logits, state, then parts of products."""

    words: int  # of an inbox
    rows: int  # that have logits
    vocabulary: int
    part_elements: int

    @property
    def logits(self) -> int:
        return _COPIES * self.words * _WORD_BYTES

    @property
    def state(self) -> int:
        return self.logits + -(-self.rows * self.vocabulary * 4 // 16) * 16

    @property
    def parts(self) -> int:
        return self.state + _STATE_BYTES

    @property
    def num_bytes(self) -> int:
        return self.parts + _COPIES * self.part_elements * _PART_BYTES


def layout_of(config: ModelConfig, ranks: int, max_rows: int, logit_rows: int) -> Layout:
    """max_rows: of a step; two columns of a row are a word."""
    words = ranks * max(max_rows * config.hidden_size // 2, 2 * logit_rows)
    return Layout(words, logit_rows, config.vocab_size, max_rows * config.hidden_size)


class SharedMemory:
    """An allocation of this rank, zeros, mapped by its peers if all can reach theirs."""

    def __init__(
        self,
        kernels: ModuleType,
        team: Team,
        num_bytes: int,
        device: torch.device,
        peers: Iterable[int],
    ) -> None:
        """Every rank of the team makes its own at the same time. peers: those in the team that are
        to map it, and whose it is to map. Raises StartError if there is no room for it.
        """
        address, handle = _shared(kernels, num_bytes)
        self.bytes = torch.as_tensor(_Bytes(address, num_bytes), device=device)
        others = _map_peers(kernels, team, handle, device, list(peers))
        self.is_mapped = others is not None
        # Of the memory of each rank, this one's first, then in their order.
        self.addresses: dict[int, int] = {team.index: address, **(others or {})}


class Abort:
    """Tells the kernels that wait for a peer, and all that follow, not to wait any longer."""

    def __init__(self, word: Tensor) -> None:
        """word: (1,) int32 on the device, which kernels look at while they wait."""
        self._word = word
        self._flag = torch.ones(1, dtype=torch.int32).pin_memory()
        self._side = torch.cuda.Stream(word.device)  # type: ignore[no-untyped-call]

    def __call__(self) -> None:
        """From any thread."""
        with torch.cuda.stream(self._side):
            self._word.copy_(self._flag, non_blocking=True)


class DeviceMemory:
    """What the ranks of a team have for one another."""

    def __init__(
        self,
        kernels: ModuleType,
        team: Team,
        layout: Layout,
        device: torch.device,
        maps: bool = True,
    ) -> None:
        """maps: False to go by NCCL."""
        peers = [index for index in range(team.size) if index != team.index]
        shared = SharedMemory(kernels, team, layout.num_bytes, device, peers if maps else [])
        own, bases = shared.bytes, list(shared.addresses.values())
        self.inbox = own[: layout.logits].view(torch.int64).view(_COPIES, layout.words)
        state = own[layout.state :].view(torch.int32)[:2]
        self.is_mapped = maps and shared.is_mapped
        peers_aborted = [base + layout.state + state.element_size() for base in bases[1:]]
        self.view = team_memory(layout, team.index, own, bases, state, peers_aborted)
        self.gathered: list[Tensor] = []  # parts of products by rank, where peers' cannot be read
        if not self.is_mapped:
            self.gathered = gathered_parts(self.inbox[1], layout, team.size)
            self.view = replace(self.view, parts=[part.data_ptr() for part in self.gathered])
        self.abort = Abort(state[1:])


def gathered_parts(inbox: Tensor, layout: Layout, ranks: int) -> list[Tensor]:
    """inbox: (words,) int64, of which nothing else is used → (part_elements,) bf16 of each rank."""
    elements = inbox.view(torch.bfloat16)[: ranks * layout.part_elements]
    return list(elements.view(ranks, -1).unbind())


def team_memory(
    layout: Layout,
    rank: int,
    own: Tensor,
    bases: list[int],
    state: Tensor,
    peers_aborted: list[int],
) -> TeamMemory:
    """own: this rank's memory from the first inbox on, uint8; bases: its address, then the peers'
    that it can write to; the others as in `TeamMemory`."""
    logits = own[layout.logits : layout.state].view(torch.float32)
    logits = logits[: layout.rows * layout.vocabulary].view(layout.rows, layout.vocabulary)
    addresses = [base + layout.logits for base in bases]
    own_part, *peers_parts = [base + layout.parts for base in bases]
    parts = [*peers_parts[:rank], own_part, *peers_parts[rank:]]
    return TeamMemory(
        bases, addresses, logits, layout.words, state, peers_aborted, parts, layout.part_elements
    )


class NcclGatherer(Gatherer):
    """Collectives on the current stream, which graphs capture.

    Its copies of logits, twice the whole ones at most, are of the memory that plans keep for steps.
    """

    def __init__(self, team: Team, memory: DeviceMemory, group: ProcessGroup) -> None:
        self._team, self._memory = team, memory
        self._group = cast(Any, group)
        rows, self._vocabulary = memory.view.whole_logits.shape
        self._width = max(
            part.stop - part.start
            for part in (vocabulary_of(self._vocabulary, team.size, i) for i in range(team.size))
        )
        device = memory.view.whole_logits.device
        self._own = torch.zeros(rows * self._width, device=device)
        self._all = torch.zeros(team.size * rows * self._width, device=device)

    def gather_words(self, num_words: int) -> None:
        parts = self._memory.inbox[0, : self._team.size * num_words]
        own = parts.view(self._team.size, -1)[self._team.index]
        self._group._allgather_base(parts, own).wait()

    def gather_parts(self, num_elements: int) -> None:
        parts = [part[:num_elements] for part in self._memory.gathered]
        self._group.allgather([parts], [parts[self._team.index]]).wait()

    def gather_logits(self, part: Tensor) -> None:
        rows, width = part.shape
        size = rows * self._width
        own, everybodys = self._own[:size], self._all[: self._team.size * size]
        own.view(rows, -1)[:, :width] = part
        self._group._allgather_base(everybodys, own).wait()
        for index in range(self._team.size):
            columns = vocabulary_of(self._vocabulary, self._team.size, index)
            of_rank = everybodys.view(-1, rows, self._width)[index]
            of_rank = of_rank[:, : columns.stop - columns.start]
            self._memory.view.whole_logits[:rows, columns] = of_rank


def _shared(kernels: ModuleType, num_bytes: int) -> tuple[int, bytes]:
    """Its address, and by which handle others map it."""
    try:
        address, handle = kernels.share_memory(num_bytes)
    except RuntimeError as error:
        raise StartError(
            f"there is no room of {num_bytes / 2**30:.1f} GiB for what ranks write to each other: "
            f"{error}; end what else runs on this GPU, or lower --max-step-tokens"
        ) from error
    return address, handle


def _map_peers(
    kernels: ModuleType, team: Team, handle: bytes, device: torch.device, peers: list[int]
) -> dict[int, int] | None:
    """Addresses here of the peers' memory; None if a rank of the team cannot reach one of its."""
    row = torch.frombuffer(bytearray(handle), dtype=torch.uint8)[None]
    handles = team.gather_rows(row, [1] * team.size)
    devices = team.gather_rows(torch.tensor([[device.index]]), [1] * team.size)
    can_reach = all(
        int(devices[index]) == device.index
        or torch.cuda.can_device_access_peer(device, int(devices[index]))
        for index in peers
    )
    addresses: dict[int, int] = {}
    try:
        if can_reach:
            for index in peers:
                addresses[index] = kernels.map_memory(bytes(handles[index].tolist()))
    except RuntimeError as error:
        log.warning("a peer's memory cannot be mapped", extra={"fields": {"reason": str(error)}})
    missing = team.gather_rows(torch.tensor([[len(peers) - len(addresses)]]), [1] * team.size)
    return None if bool(missing.any()) else addresses


class _Bytes:
    """Memory that torch did not allocate, as it takes it."""

    def __init__(self, address: int, num_bytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (num_bytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 2,
        }
