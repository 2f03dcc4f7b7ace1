"""What any kernel is told: which cached positions a token sees, which experts are not here."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from openinference_engine.config import ModelConfig

NO_WINDOW = 2**31 - 1  # as a window: a token sees everything before it


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The same for all layers of a step. T tokens of S sequences, laid end to end.

    slots: (T,) int64, where each token's key and value go: block × P + place in the block.
    starts: (S + 1,) int32, the first row of each sequence, then T.
    lengths: (S,) int32, positions each sequence holds after this step; its last token sees all.
    blocks: (S, W) int32, the blocks of each sequence in order; what follows them is not read.
    """

    slots: Tensor
    starts: Tensor
    lengths: Tensor
    blocks: Tensor


def windows_of(config: ModelConfig) -> tuple[int, ...]:
    """By layer, as kernels take them."""
    windows = config.windows or (None,) * config.num_layers
    return tuple(NO_WINDOW if window is None else window for window in windows)
