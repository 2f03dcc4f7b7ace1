"""From one stage of a pipeline on GPUs to the next: hidden rows, and of the last one its choice.

Whoever receives has an inbox, whoever sends maps it and writes marked words there
(csrc/cuda/team.cuh): a team of one rank, whose inbox both ends take for their own. Each lane, in
which one step may be under way (`lanes`), has inboxes of its own, and its next step begins when the
choice of the last one is back: nothing unread is overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import GroupConfig, ModelConfig
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.ranks.channels import NEAR, HopEnd, Ways, row_words
from openinference_engine.ranks.device_memory import Layout, team_memory
from openinference_engine.ranks.team_kernels import PATIENCE_NANOSECONDS, TeamMemory

_WORD_BYTES, _ALIGNMENT = 8, 16


@dataclass(frozen=True, slots=True)
class StageLayout:
    """Where a stage's inboxes lie in its memory, and behind each the whole logits, if it gets them.

    words: of an inbox. logits: rows and vocabulary, float32.
    """

    lanes: int
    words: int
    logits: tuple[int, int] = (0, 0)

    @property
    def logit_bytes(self) -> int:
        return math.prod(self.logits) * 4

    @property
    def lane_bytes(self) -> int:
        lane_bytes = self.words * _WORD_BYTES + self.logit_bytes
        return -(-lane_bytes // _ALIGNMENT) * _ALIGNMENT

    @property
    def num_bytes(self) -> int:
        return self.state + _ALIGNMENT

    @property
    def state(self) -> int:
        """Of two int32, the exchanges of the stage's team that have ended and whether the pipeline
        is lost; in bytes from the start."""
        return self.lanes * self.lane_bytes

    @property
    def aborted(self) -> int:
        return self.state + 4

    def inbox(self, lane: int) -> int:
        """In bytes from the start, as those of the logits."""
        return lane * self.lane_bytes

    def logits_of(self, lane: int) -> int:
        return self.inbox(lane) + self.words * _WORD_BYTES


def layout_of(model: ModelConfig, group: GroupConfig, stage: int, max_rows: int) -> StageLayout:
    """max_rows: of a step; one choice is of MAX_ROWS. There are as many lanes as stages.

    Rows from another pod come without marks, which are half of each word.
    """
    if stage == 0:
        return StageLayout(group.pipeline, 2 * MAX_ROWS, (MAX_ROWS, model.vocab_size))
    words = max_rows * row_words(model.hidden_size)
    return StageLayout(group.pipeline, -(-words // 2) if is_far(group, stage) else words)


def is_far(group: GroupConfig, stage: int) -> bool:
    """Whether the stage before this one is in another pod."""
    before = (stage - 1) % group.pipeline
    pod, other = (group.pod_of(one * group.ranks_per_stage) for one in (stage, before))
    return pod != other


class Hops:
    """The two ends that a stage has in one lane: it takes from one hop and pushes to the next."""

    def __init__(
        self, kernels: ModuleType, before: Any, after: Any, after_alone: Any, memory: StageMemory,
        ends: tuple[HopEnd, HopEnd],
    ) -> None:  # fmt: skip
        """before, after: each a Team of the kernels, of addresses in `memory`. after_alone: the
        latter without its logits. ends: of both hops.
        """
        self._kernels, self._before, self._after = kernels, before, after
        self._after_alone, self._memory = after_alone, memory
        self._arrival, self._departure = ends

    def around(self, replay: Callable[[], None]) -> Callable[[], None]:
        """replay: of a graph that was captured just now, in which nothing goes between pods: in a
        graph what comes next would wait for a send, too.
        """
        brought, sent = self._arrival.noted(), self._departure.noted()
        if not brought and not sent:
            return replay

        def run() -> None:
            self._arrival.carry(brought)
            replay()
            self._departure.carry(sent)

        return run

    def push_rows(
        self, positions: Tensor, hidden: Tensor, sum_squares: Tensor, stream: Any
    ) -> None:
        if self._departure.is_far:
            packed = self._departure.rows(*hidden.shape)
            self._kernels.pack_rows(positions, hidden, sum_squares, packed, stream)
            self._departure.carry(packed.nbytes)
            return
        self._kernels.push_rows(positions, hidden, sum_squares, self._after, 0, stream)
        self._kernels.end_exchanges(self._after, 1, stream)

    def take_rows(
        self, norm_weight: Tensor, positions: Tensor, state: tuple[Tensor, Tensor, Tensor],
        stream: Any,
    ) -> None:  # fmt: skip
        """state: hidden, x and sum_squares."""
        if self._arrival.is_far:
            packed = self._arrival.rows(*state[0].shape)
            self._arrival.carry(packed.nbytes)
            self._kernels.unpack_rows(packed, norm_weight, positions, *state, stream)
            return
        self._kernels.take_rows(self._before, 0, norm_weight, positions, *state, stream)
        self._kernels.end_exchanges(self._before, 1, stream)

    def push_choice(self, logits: Tensor, tokens: Tensor, stream: Any, with_logits: bool) -> None:
        """with_logits: whether the first stage rates tokens by them, or its host draws."""
        counters, vocabulary = self._memory.counters, logits.shape[1]
        after = self._after if with_logits else self._after_alone
        self._kernels.push_choice(logits, 0, vocabulary, tokens, after, 0, counters, stream)
        self._kernels.end_exchanges(self._after, 1, stream)
        self._departure.carry(self._memory.choice_bytes(len(tokens), with_logits))

    def take_choice(
        self, tokens: Tensor, positions: Tensor, stream: Any, with_logits: bool
    ) -> None:
        """with_logits: as it was pushed."""
        self._arrival.carry(self._memory.choice_bytes(len(tokens), with_logits))
        self._kernels.take_choice(self._before, 0, tokens, positions, stream)
        self._kernels.end_exchanges(self._before, 1, stream)


class StageMemory:
    """What a stage has for the one before to write to, and where it writes to the next one."""

    def __init__(
        self,
        own: Tensor,
        layout: StageLayout,
        following: int | Tensor,
        next_layout: StageLayout,
        ways: tuple[Ways, Ways] | None = None,
    ) -> None:
        """own: the memory that `layout` divides, uint8, of zeros; following: the address of the
        next stage's, or, where that is in another pod, what stands for it here. ways: from the
        stage before and to the next.
        """
        self._own, self._layout, self._next_layout = own, layout, next_layout
        self._outbox = following if isinstance(following, Tensor) else own[:0]
        self._next_address = following if isinstance(following, int) else following.data_ptr()
        self._from_before, self._to_next = ways or (NEAR * layout.lanes, NEAR * layout.lanes)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=own.device)

        self.state = own[layout.state : layout.state + 8].view(torch.int32)
        self.aborted = self.state[1:]
        self._ended = zeros(layout.lanes, 2)  # exchanges of the hops before and after
        self.counters = zeros(MAX_ROWS)  # scratch of `push_choice`

    def shared_by(self, layout: Layout, rank: int, peers: list[int]) -> TeamMemory:
        """What ranks that share this stage write to each other, behind what stages do.

        rank: of this one among them. peers: addresses of the whole memory of the others, which is
        divided as this one is.
        """
        start = self._layout.num_bytes
        bases = [address + start for address in (self._own.data_ptr(), *peers)]
        aborted = [address + self._layout.aborted for address in peers]
        return team_memory(layout, rank, self._own[start:], bases, self.state, aborted)

    def logits(self, lane: int) -> Tensor | None:
        """(rows, vocabulary) float32, which the last stage writes to the first one's memory."""
        layout, start = self._layout, self._layout.logits_of(lane)
        if not layout.logit_bytes:
            return None
        numbers = self._own[start : start + layout.logit_bytes]
        return numbers.view(torch.float32).view(layout.logits)

    def hops(self, kernels: ModuleType, lane: int) -> Hops:
        before, after = self._ended[lane]
        next_address, next_layout = self._next_address, self._next_layout
        own = self._team(kernels, self._own.data_ptr(), self._layout, lane, before, [])
        peers = [next_address + next_layout.aborted]
        following, alone = (
            self._team(kernels, next_address, next_layout, lane, after, peers, has_logits)
            for has_logits in (True, False)
        )
        ends = (
            HopEnd(self._from_before[lane], self._own[self._layout.inbox(lane) :]),
            HopEnd(self._to_next[lane], self._outbox[next_layout.inbox(lane) :]),
        )
        return Hops(kernels, own, following, alone, self, ends)

    def choice_bytes(self, rows: int, with_logits: bool) -> int:
        """Of what the last stage sends to the first, from the start of the inbox on."""
        layout = self._layout if self._layout.logit_bytes else self._next_layout
        if with_logits:
            return layout.words * _WORD_BYTES + rows * layout.logits[1] * 4
        return 2 * rows * _WORD_BYTES

    def _team(
        self,
        kernels: ModuleType,
        address: int,
        layout: StageLayout,
        lane: int,
        ended: Tensor,
        peers_aborted: list[int],
        has_logits: bool = True,
    ) -> Any:
        return kernels.Team(
            rank=0,
            ranks=1,
            inboxes=[address + layout.inbox(lane)],
            logits=[address + layout.logits_of(lane)] if has_logits else [],
            words=layout.words,
            ended=ended.data_ptr(),
            aborted=self.aborted.data_ptr(),
            patience_nanoseconds=PATIENCE_NANOSECONDS,
            peers_aborted=peers_aborted,
        )
