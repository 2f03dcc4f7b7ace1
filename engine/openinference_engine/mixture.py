"""A layer of experts as a queue of CUDA kernels: project, route, gate-up, sum (csrc/ops.h).

`Mixture` serves the rows that decode, `PromptMixture` those of prompts, which it sorts by expert.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ExpertsConfig
from openinference_engine.llama_weights import LayerWeights

_MOST_ROWS = 2048  # of a prompt at once: each has a state for every expert that it goes to


class Mixture:
    """Buffers of up to `rows` rows, for all layers. A row without a position visits nobody.

    visits: those of the last routing, as `route` leaves them.
    """

    def __init__(self, config: ExpertsConfig, rows: int, device: torch.device) -> None:
        self._config = config
        places = rows * config.per_token

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.logits = zeros(rows, config.count)
        self._shares = zeros(rows, config.per_token)
        self._places = zeros(rows, config.per_token, dtype=torch.int32)
        self._sources = zeros(places, dtype=torch.int32)
        self.visits = zeros(places, 4, dtype=torch.int32)
        self._activations = zeros(places, config.intermediate_size, dtype=torch.bfloat16)

    def ops(
        self,
        kernels: ModuleType,
        layer: LayerWeights,
        norm_after: Tensor,
        positions: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        epsilon: float,
    ) -> dict[str, Callable[[Any], None]]:
        """What a layer queues, by name and in order; each takes the stream.

        state: hidden, to which the experts' sums are added, x and sum_squares of R rows.
        """
        _, x, sum_squares = state
        rows = len(positions)
        places = rows * self._config.per_token
        shares, places_of = self._shares[:rows], self._places[:rows]
        sources, visits = self._sources[:places], self.visits[:places]
        activations, normed = self._activations[:places], (x, sum_squares, epsilon)
        routed = *_choice(self._config), shares, places_of, sources, visits
        down, sums = (activations, layer.down, visits), (shares, places_of, norm_after, *state)
        return {
            "project": partial(kernels.project, *normed, layer.router, self.logits[:rows]),
            "route": partial(kernels.route, self.logits[:rows], positions, *routed),
            "expert_gate_up": partial(
                kernels.expert_gate_up, *normed, layer.gate_up, sources, visits, activations
            ),
            "expert_sum": partial(kernels.expert_sum, *down, *sums),
        }


class PromptMixture:
    """The same for many rows, by kernels of Hopper's instructions; up to _MOST_ROWS at once."""

    def __init__(self, hidden: int, config: ExpertsConfig, rows: int, device: torch.device) -> None:
        self._config = config
        self._rows = min(rows, _MOST_ROWS)
        places = self._rows * config.per_token

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self._logits = empty(self._rows, config.count)
        self._shares = empty(self._rows, config.per_token)
        self._ids = empty(self._rows, config.per_token, dtype=torch.int32)
        self._places = empty(self._rows, config.per_token, dtype=torch.int32)
        self._visits = empty(places, 4, dtype=torch.int32)
        self._sorted = empty(places, hidden, dtype=torch.bfloat16)
        self._scales = empty(places)
        self._activations = empty(places, config.intermediate_size, dtype=torch.bfloat16)
        self._results = empty(places, hidden, dtype=torch.bfloat16)

    def queue(
        self,
        kernels: ModuleType,
        layer: LayerWeights,
        norm_after: Tensor,
        positions: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        epsilon: float,
        stream: Any,
    ) -> None:
        """state: as in `Mixture.ops`, of any number of rows."""
        for first in range(0, len(positions), self._rows):
            part = slice(first, first + self._rows)
            hidden, x, sum_squares = (tensor[part] for tensor in state)
            of_part = positions[part], (hidden, x, sum_squares), epsilon
            for op in self.ops(kernels, layer, norm_after, *of_part).values():
                op(stream)

    def ops(
        self,
        kernels: ModuleType,
        layer: LayerWeights,
        norm_after: Tensor,
        positions: Tensor,
        state: tuple[Tensor, Tensor, Tensor],
        epsilon: float,
    ) -> dict[str, Callable[[Any], None]]:
        """Of up to _MOST_ROWS rows, by name and in order; each takes the stream."""
        _, x, sum_squares = state
        rows, config = len(positions), self._config
        places = rows * config.per_token
        logits, shares, ids = self._logits[:rows], self._shares[:rows], self._ids[:rows]
        places_of, visits = self._places[:rows], self._visits[:places]
        ordered, scales = self._sorted[:places], self._scales[:places]
        activations = self._activations[:places]
        results, normed = self._results[:places], (x, sum_squares, epsilon)
        return {
            "project": partial(kernels.project, *normed, layer.router, logits),
            "choose_experts": partial(
                kernels.choose_experts, logits, positions, *_choice(config), shares, ids
            ),
            "order_experts": partial(
                kernels.order_experts, ids, len(config.own), places_of, visits
            ),
            "sort_rows": partial(
                kernels.sort_rows, *normed, places_of, layer.gate_up, ordered, scales
            ),
            "prefill_gate_up": partial(
                kernels.prefill_gate_up, ordered, scales, layer.gate_up, visits, activations
            ),
            "prefill_down": partial(kernels.prefill_down, activations, layer.down, visits, results),
            "add_experts": partial(
                kernels.add_experts, results, shares, places_of, norm_after, *state
            ),
        }


def _choice(config: ExpertsConfig) -> tuple[bool, int, int]:
    """How kernels choose: whether shares add up to 1, this rank's first expert, and how many."""
    return config.normalises_shares, config.own.start, len(config.own)
