"""A stage of a pipeline on GPUs: which part of the model it has, and how that begins and ends.

The first stage embeds, the last one chooses; in between, rows come and go by `hops`.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import msgspec
from torch import Tensor

from openinference_engine.chunks import Chunks
from openinference_engine.config import GroupConfig, ModelConfig
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.inputs import RowInputs
from openinference_engine.llama_weights import Extent
from openinference_engine.prefill import Prefill, State
from openinference_engine.ranks.hops import Hops
from openinference_engine.ranks.layout import layers_of
from openinference_engine.ranks.part import part_of
from openinference_engine.ranks.team import Team
from openinference_engine.ranks.team_kernels import TeamKernels


@dataclass(frozen=True, slots=True)
class StageModel:
    """config: the model, with as many layers as the stage has, as far as a rank sees them."""

    config: ModelConfig
    extent: Extent


def stage_model(model: ModelConfig, group: GroupConfig, stage: int, index: int = 0) -> StageModel:
    """index: of the rank among those of the stage, of which the first has no less than others."""
    layers = layers_of(model, group.pipeline)[stage]
    windows = model.windows[layers.start : layers.stop]
    config = msgspec.structs.replace(model, num_layers=len(layers), windows=windows)
    return StageModel(
        part_of(config, Team(index, group.ranks_per_stage), group.expert),
        Extent(layers.start, stage == 0, stage == group.pipeline - 1),
    )


def end_step(kernels: ModuleType, stream: Any) -> None:
    """Of a rank that shares its stage with others, if it does."""
    if isinstance(kernels, TeamKernels):
        kernels.end_step(stream)


class StageDecoder(Decoder):
    """Of one lane. Rank 0's ends a step by `take_choice`, apart from its layers."""

    extent: Extent
    hops: Hops

    def in_lane(self, lane: int, extent: Extent, hops: Hops, logits: Tensor | None) -> StageDecoder:
        """The same over inputs of its own. logits: where the choice comes with them."""
        twin, old = copy(self), self.inputs
        if lane > 0:
            twin.inputs = RowInputs(
                MAX_ROWS, old.pages.shape[1], old.history.shape[1], old.words.device
            )
        if logits is not None:
            twin._buffers = replace(self._buffers, logits=logits)
        twin.extent, twin.hops = extent, hops
        return twin

    def embed(self, rows: int, stream: Any) -> None:
        if self.extent.has_embedding:
            super().embed(rows, stream)
            return
        norm, positions = self._weights.layers[0].attention_norm, self.inputs.positions[:rows]
        self.hops.take_rows(norm, positions, self._state(rows), stream)

    def queue_head(
        self, x: Tensor, sum_squares: Tensor, stream: Any, draws: bool, rates: bool
    ) -> None:
        if self.extent.has_head:
            super().queue_head(x, sum_squares, stream, draws, rates)

    def take_choice(self, rows: int, stream: Any, rates: bool) -> None:
        tokens, positions = self.inputs.tokens[:rows], self.inputs.positions[:rows]
        self.hops.take_choice(tokens, positions, stream, rates)
        if rates:
            self.rate_token(rows, stream)

    def _queue_choice(self, rows: int, stream: Any, draws: bool, rates: bool) -> None:
        if self.extent.has_head:
            self.choose_token(rows, stream)
            logits = self.logits(rows)  # which leave this stage as they are
            if draws:
                self.draw_token(self._buffers.used_up[:rows].copy_(logits), stream)
            self.hops.push_choice(logits, self.inputs.tokens[:rows], stream, rates)
            return
        hidden, _, sum_squares = self._state(rows)
        self.hops.push_rows(self.inputs.positions[:rows], hidden, sum_squares, stream)
        end_step(self._kernels, stream)


class StagePrefill(Prefill):
    """In one lane; all lanes share the buffers, for the stream is one."""

    extent: Extent
    hops: Hops

    def in_lane(self, extent: Extent, hops: Hops) -> StagePrefill:
        twin = copy(self)
        twin.extent, twin.hops = extent, hops
        return twin

    def queue(self, chunks: Chunks, stream: Any) -> tuple[Tensor, Tensor]:
        states = super().queue(chunks, stream)
        if not self.extent.has_head:
            hidden = self._hidden[: len(chunks.tokens)]
            self.hops.push_rows(chunks.positions, hidden, states[1], stream)
        end_step(self._kernels, stream)
        return states

    def _enter(self, chunks: Chunks, state: State, stream: Any) -> None:
        if self.extent.has_embedding:
            super()._enter(chunks, state, stream)
            return
        norm = self._weights.layers[0].attention_norm
        self.hops.take_rows(norm, chunks.positions, state, stream)
