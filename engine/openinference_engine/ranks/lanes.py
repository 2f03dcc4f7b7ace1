"""A pipeline of GPUs is full because several steps are under way: each in a lane of its own.

A lane is what a step needs for itself: inputs, inboxes, logits and graphs. Rank 0 has the first
stage of the model in every lane. It queues a step's rows at once, and what takes the last stage's
choice as late as it can: so the rows of all other lanes are in front of it. What a step has chosen
is the device's input of the lane's next step, which may be queued before the host has read it
(`cuda_runner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import torch
from torch import Tensor

from openinference_engine.chunks import Parts
from openinference_engine.launches import Flight, Kind
from openinference_engine.prefill import Prefill
from openinference_engine.ranks.cuda_stage import StageDecoder
from openinference_engine.ranks.launching import Follower, LeadingLaunches, Send
from openinference_engine.ranks.messages import ForLane, Head, Repeat, TakeChoice, ToRank
from openinference_engine.rows import Row


@dataclass(frozen=True, slots=True)
class Crossing(Flight):
    """A launch on its way through the stages; `bring_back` queues the way of its tokens."""

    bring_back: Callable[[Crossing], None]

    def land(self) -> list[int]:
        self.bring_back(self)
        return Flight.land(self)


class LaneLaunches(LeadingLaunches):
    """Rank 0's, of one lane. The last stage draws; to rate is for what takes its choice."""

    ends_prompts_with_head = True  # its choice says that all stages are done with the rows
    _decoder: StageDecoder
    _crossing: Crossing | None = None

    def __init__(
        self,
        send: Send,
        has_peers: bool,
        kernels: ModuleType,
        decoder: StageDecoder,
        uses_graphs: bool,
        overlaps: bool,
    ) -> None:
        """has_peers: others share the first stage with rank 0, and take each choice as it does."""
        super().__init__(send, kernels, decoder, uses_graphs, overlaps)
        self._has_peers = has_peers

    def launch(self, rows: list[Row]) -> Flight:
        self._bring_back_last()
        return super().launch(rows)

    def launch_prompts(self, prefill: Prefill, parts: Parts) -> tuple[Tensor, Tensor]:
        self._bring_back_last()
        return super().launch_prompts(prefill, parts)

    def launch_head(
        self, rows: list[Row], states: tuple[Tensor, Tensor], indices: list[int]
    ) -> Flight:
        self._bring_back_last()
        return super().launch_head(rows, states, indices)

    def repeat(self, kind: Kind) -> Flight:
        self._bring_back_last()
        self._send(Repeat(kind))
        self._replays[kind]()
        return self._fly(kind)

    def _kind_of(self, rows: list[Row]) -> Kind:
        """Where the host draws or rates, logits come as where the device rates."""
        kind, asks = super()._kind_of(rows), any(row.needs_logits for row in rows)
        return msgspec.structs.replace(kind, rates=kind.rates or asks)

    def _captured(self, kind: Kind) -> Callable[[], None]:
        replay = super()._captured(kind)
        self._take_choice(kind)  # of the inert run
        return self._decoder.hops.around(replay)

    def _queue_head(self, states: tuple[Tensor, Tensor], indices: list[int], kind: Kind) -> None:
        self._send(Head(indices, kind))

    def _fly(self, kind: Kind) -> Flight:
        self._crossing = Crossing(kind, *self._next_return(), self._bring_back)
        return self._crossing

    def _bring_back_last(self) -> None:
        if self._crossing is not None:
            self._bring_back(self._crossing)

    def _bring_back(self, crossing: Crossing) -> None:
        if self._crossing is crossing:
            self._crossing = None
            self._take_choice(crossing.kind)
            self._depart(crossing)

    def _take_choice(self, kind: Kind) -> None:
        if self._has_peers:
            self._send(TakeChoice(kind))
        _take_choice(self._kernels, self._decoder, self.stream(), kind)


class LaneFollower(Follower):
    """Another rank's, of one lane."""

    _decoder: StageDecoder

    @torch.inference_mode()
    def take(self, message: ToRank) -> None:
        if not isinstance(message, TakeChoice):
            super().take(message)
        elif self._decoder.extent.has_embedding:
            _take_choice(self._kernels, self._decoder, self.stream(), message.kind)

    def _captured(self, kind: Kind) -> Callable[[], None]:
        return self._decoder.hops.around(super()._captured(kind))


class LaneFollowers:
    """Another rank: a `LaneFollower` for each lane."""

    def __init__(self, followers: list[LaneFollower]) -> None:
        self._followers = followers

    def take(self, message: ToRank) -> None:
        if isinstance(message, ForLane):
            self._followers[message.lane].take(message.told)


def _take_choice(kernels: ModuleType, decoder: StageDecoder, stream: Any, kind: Kind) -> None:
    """When all before it has ended: it waits for another GPU, and would take room meanwhile."""
    alone = kernels.Stream(stream.handle, False)
    decoder.take_choice(kind.bucket, alone, kind.rates)
