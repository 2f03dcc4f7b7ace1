"""Rotary position tables, computed once for all layers and positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from openinference_engine.config import ModelConfig, RopeScaling
from openinference_engine.weights.loader import Weights


class Rotary:
    """Cosines and sines of every position up to `num_positions`, in float32.

    A checkpoint may carry one divisor per frequency (`rotary_factors`, as GGUF files of Llama 3.1
    do); else the scaling of the config applies.
    """

    def __init__(self, weights: Weights, config: ModelConfig, num_positions: int) -> None:
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        frequencies = 1.0 / (config.rope_theta**exponents)
        if weights.has("rotary_factors.weight"):
            divisors = weights.tensor("rotary_factors.weight", (config.head_dim // 2,))
            frequencies = frequencies / divisors.float()
        elif config.rope_scaling is not None:
            frequencies = _scaled(frequencies, config.rope_scaling)
        positions = torch.arange(num_positions, dtype=torch.float32)
        angles = positions[:, None] * frequencies  # (positions, D / 2)
        self._cosine, self._sine = angles.cos(), angles.sin()

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions: (T,) int64 → cosine, sine: (T, D / 2)."""
        return self._cosine[positions], self._sine[positions]


def _scaled(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Long waves are slowed by the factor, short ones kept, those between blended smoothly."""
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_positions / wavelengths  # within the trained length
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor
