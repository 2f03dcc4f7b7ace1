"""What ranks say to each other over their link, as msgpack; tensors go another way (`team`)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from openinference_engine.batch import Batch
from openinference_engine.launches import Kind
from openinference_engine.ops import AttentionPlan

_INT64, _INT32 = np.dtype(np.int64), np.dtype(np.int32)


class StepMessage(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A step as its arrays, in the order of `batch.Batch` and `ops.AttentionPlan`.

    wants_states: rank 0 is to get the states too, beside the logits. seconds: it may take so long.
    """

    token_ids: bytes
    positions: bytes
    slots: bytes
    starts: bytes
    lengths: bytes
    blocks: bytes
    logit_rows: bytes
    wants_states: bool
    seconds: float

    def batch(self) -> Batch:
        lengths = _tensor(self.lengths, _INT32)
        return Batch(
            _tensor(self.token_ids, _INT64),
            _tensor(self.positions, _INT64),
            AttentionPlan(
                _tensor(self.slots, _INT64),
                _tensor(self.starts, _INT32),
                lengths,
                _tensor(self.blocks, _INT32).view(len(lengths), -1),
            ),
            _tensor(self.logit_rows, _INT64),
        )


def step_message(batch: Batch, wants_states: bool, seconds: float) -> StepMessage:
    plan = batch.attention
    return StepMessage(
        _bytes(batch.token_ids),
        _bytes(batch.positions),
        _bytes(plan.slots),
        _bytes(plan.starts),
        _bytes(plan.lengths),
        _bytes(plan.blocks),
        _bytes(batch.logit_rows),
        wants_states,
        seconds,
    )


def _bytes(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def _tensor(data: bytes, dtype: np.dtype[Any]) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), dtype))


class Prepare(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """GPU ranks, as the five below: to capture a graph."""

    kind: Kind


class Update(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To write words of the inputs (`inputs.RowInputs`): their places and values, int32."""

    places: bytes
    values: bytes


class Repeat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To queue a step over the rows that the device holds."""

    kind: Kind


class Prompts(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To queue the chunks of a step (`prefill.chunks_of`): token ids, first position, pages."""

    parts: list[tuple[list[int], int, list[int]]]


class Head(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """To queue the head over these rows of the last prompts."""

    indices: list[int]
    kind: Kind


class TakeChoice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """In the first stage of a pipeline: to queue what takes the last stage's choice."""

    kind: Kind


ToQueue = Prepare | Update | Repeat | Prompts | Head | TakeChoice


class ForLane(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """In a pipeline of GPUs: the lane that this is for (`lanes`)."""

    lane: int
    told: ToQueue


ToRank = StepMessage | ToQueue | ForLane


class Joined(msgspec.Struct, frozen=True, tag=True):
    """The first word of a rank, which makes its connection known as one of the group's."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A rank has loaded its part."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A rank cannot load its part: one sentence."""

    reason: str


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """A rank's pod was told to terminate: the group is to drain."""


FromRank = Joined | Ready | Failed | Leaving
