"""A layer of experts as a queue of CUDA kernels: route, gate-up, down, sum (csrc/ops.h)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from openinference_engine.config import ExpertsConfig
from openinference_engine.llama_weights import LayerWeights


class Mixture:
    """Buffers of up to `rows` rows, for all layers. A row without a position visits nobody."""

    def __init__(self, hidden: int, config: ExpertsConfig, rows: int, device: torch.device) -> None:
        self._config = config
        places = rows * config.per_token

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._logits = zeros(rows, config.count)
        self._shares = zeros(rows, config.per_token)
        self._places = zeros(rows, config.per_token, dtype=torch.int32)
        self._sources = zeros(places, dtype=torch.int32)
        self._visits = zeros(places, 4, dtype=torch.int32)
        self._activations = zeros(places, config.intermediate_size, dtype=torch.bfloat16)
        self._results = zeros(places, hidden)

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
        """state: hidden, to which the experts' sums are added, x and sum_squares of R rows."""
        _, x, sum_squares = state
        rows = len(positions)
        places = rows * self._config.per_token
        logits, shares, places_of = self._logits[:rows], self._shares[:rows], self._places[:rows]
        sources, visits = self._sources[:places], self._visits[:places]
        activations, results = self._activations[:places], self._results[:places]
        normed, own = (x, sum_squares, epsilon), self._config.own
        kernels.project(*normed, layer.router, logits, stream)
        kernels.route(
            logits, positions, self._config.normalises_shares, own.start, len(own), shares,
            places_of, sources, visits, stream,
        )  # fmt: skip
        kernels.expert_gate_up(*normed, layer.gate_up, sources, visits, activations, stream)
        kernels.expert_down(activations, layer.down, visits, rows, results, stream)
        kernels.add_experts(results, shares, places_of, norm_after, *state, stream)
