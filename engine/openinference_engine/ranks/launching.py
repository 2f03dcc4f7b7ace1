"""A group's GPUs: rank 0 says what it queues on its own, and the others queue the same.

No token travels but those that rank 0 has drawn itself; what graphs choose or draw is the same on
every device.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from openinference_engine.chunks import Parts, send
from openinference_engine.decoder import Decoder
from openinference_engine.launches import Flight, Kind, Launches
from openinference_engine.prefill import Prefill
from openinference_engine.ranks.messages import Head, Prepare, Prompts, Repeat, ToRank, Update

Send = Callable[[ToRank], None]


class LeadingLaunches(Launches):
    """Rank 0's."""

    def __init__(
        self, send: Send, kernels: ModuleType, decoder: Decoder, uses_graphs: bool, overlaps: bool
    ) -> None:
        telling = cast(ModuleType, _TellingKernels(kernels, send))
        super().__init__(telling, decoder, uses_graphs, overlaps)
        self._send = send

    def launch_prompts(self, prefill: Prefill, parts: Parts) -> tuple[Tensor, Tensor]:
        self._send(Prompts(parts))
        return super().launch_prompts(prefill, parts)

    def repeat(self, kind: Kind) -> Flight:
        self._send(Repeat(kind))
        return super().repeat(kind)

    def _prepare(self, kind: Kind) -> None:
        if kind not in self._replays:
            self._send(Prepare(kind))
        super()._prepare(kind)

    def _queue_head(self, states: tuple[Tensor, Tensor], indices: list[int], kind: Kind) -> None:
        self._send(Head(indices, kind))
        super()._queue_head(states, indices, kind)


class TeamPrefill(Prefill):
    """Of any rank of a team."""

    def queue_parts(self, parts: Parts, stream: Any) -> tuple[Tensor, Tensor]:
        states = super().queue_parts(parts, stream)
        self._kernels.end_step(stream)
        return states


class Follower(Launches):
    """Another rank: queues what it is told, and waits for nothing."""

    def __init__(
        self,
        kernels: ModuleType,
        decoder: Decoder,
        prefill: Prefill | None,
        uses_graphs: bool,
        overlaps: bool,
    ) -> None:
        super().__init__(kernels, decoder, uses_graphs, overlaps)
        self._prefill = prefill
        self._states: tuple[Tensor, Tensor] | None = None

    @torch.inference_mode()
    def take(self, message: ToRank) -> None:
        match message:
            case Prepare(kind):
                self._prepare(kind)
            case Update(places, values):
                words = self._decoder.inputs.words
                changes = (_words(data, words.device) for data in (places, values))
                self._kernels.update(words, *changes, self.stream())
            case Repeat(kind):
                self._replays[kind]()
            case Prompts(parts) if self._prefill is not None:
                self._states = self._prefill.queue_parts(parts, self.stream())
            case Head(indices, kind) if self._states is not None:
                self._queue_head(self._states, indices, kind)


class _TellingKernels:
    """The kernels of rank 0, which tell the others what is written to the inputs."""

    def __init__(self, kernels: ModuleType, send: Send) -> None:
        self._kernels, self._send = kernels, send

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def update(self, words: Tensor, places: Tensor, values: Tensor, stream: Any) -> None:
        self._send(Update(places.numpy().tobytes(), values.numpy().tobytes()))
        self._kernels.update(words, places, values, stream)


def _words(data: bytes, device: torch.device) -> Tensor:
    return send(torch.frombuffer(bytearray(data), dtype=torch.int32), device)
