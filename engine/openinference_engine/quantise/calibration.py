"""Calibration: what the projections of a model are given, layer by layer, on some text.

The engine's own layers run on it, so every architecture that it serves can be calibrated. One layer
is in memory at a time, in float32, beside the hidden states of the text; a layer's successor sees
what the quantised layer makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from openinference_engine.batch import build_batch
from openinference_engine.errors import StartError
from openinference_engine.layers.attention import KVCache
from openinference_engine.layers.embedding import Vocabulary
from openinference_engine.layers.rotary import Rotary
from openinference_engine.models.llama import LlamaLayer
from openinference_engine.quantise.gptq import quantise_by_moments
from openinference_engine.quantise.scheme import Quantised, Scheme, round_to_nearest
from openinference_engine.step import Chunk
from openinference_engine.weights.checkpoint import ALL, Checkpoint
from openinference_engine.weights.loader import Weights, as_tensor

SAMPLE_TOKENS = 512  # of text that attend to one another
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class _Rounded(Weights):
    """Weights of which some matrices are replaced, by their whole name."""

    matrices: Mapping[str, Quantised] = field(default_factory=dict)

    def tensor(self, name: str, shape: tuple[int, ...], rows: slice = ALL) -> Tensor:
        quantised = self.matrices.get(self.prefix + name)
        if quantised is None:
            return Weights.tensor(self, name, shape, rows)  # slots leave super() without its class
        return quantised.expand()[rows]


class Calibration:
    """The hidden states of some samples of text, before the layer that is next."""

    def __init__(self, checkpoint: Checkpoint, samples: list[list[int]]) -> None:
        """samples: token ids, at most SAMPLE_TOKENS each."""
        self._checkpoint, self._config = checkpoint, checkpoint.config
        self._model = Weights(checkpoint, torch.float32).at("model")
        num_blocks = SAMPLE_TOKENS // _BLOCK_SIZE
        blocks = list(range(num_blocks))
        self._batches = [
            build_batch([Chunk("calibration", ids, 0, blocks, None)], _BLOCK_SIZE)
            for ids in samples
        ]
        embedding = Vocabulary(self._model, "embed_tokens.weight", self._config)
        self._hidden = [embedding.embed(batch.token_ids) for batch in self._batches]
        self._rotary = Rotary(self._model, self._config, SAMPLE_TOKENS)
        self._cache = KVCache(self._config, num_blocks, _BLOCK_SIZE)

    @torch.inference_mode()
    def quantise(self, scheme: Scheme, layer: int, names: Sequence[str]) -> dict[str, Quantised]:
        """The matrices `names` of a layer, which has to be the next one."""
        moments: dict[str, Tensor] = {}

        def observe(inputs_of: Sequence[str], inputs: Tensor) -> None:
            moments.setdefault(inputs_of[0], torch.zeros(inputs.shape[1], inputs.shape[1]))
            moments[inputs_of[0]] += inputs.T @ inputs
            moments.update(dict.fromkeys(inputs_of, moments[inputs_of[0]]))

        self._run(layer, replace(self._model, observe=observe))
        quantised = {name: self._quantise(scheme, name, moments.get(name)) for name in names}
        rounded = _Rounded(self._checkpoint, torch.float32, prefix="model.", matrices=quantised)
        self._hidden = self._run(layer, rounded)
        return quantised

    def _run(self, number: int, model: Weights) -> list[Tensor]:
        """The hidden states behind a layer."""
        layer = LlamaLayer(model.at(f"layers.{number}"), self._config, number)
        return [
            layer(hidden, self._rotary.at(batch.positions), self._cache, batch.attention)
            for hidden, batch in zip(self._hidden, self._batches, strict=True)
        ]

    def _quantise(self, scheme: Scheme, name: str, moments: Tensor | None) -> Quantised:
        matrix = float_matrix(self._checkpoint, name)
        if moments is None:  # an expert: its products are one operation, which shows no inputs
            return round_to_nearest(scheme, matrix)
        return quantise_by_moments(scheme, matrix, moments)


def split_samples(token_ids: list[int], limit: int) -> list[list[int]]:
    """The first `limit` ids of a text in whole samples; a short text is one sample."""
    starts = range(0, max(min(limit, len(token_ids)) - SAMPLE_TOKENS, 0) + 1, SAMPLE_TOKENS)
    return [token_ids[start : start + SAMPLE_TOKENS] for start in starts]


def float_matrix(checkpoint: Checkpoint, name: str) -> Tensor:
    """A matrix of the checkpoint in float32. Raises StartError if it holds no numbers."""
    matrix = as_tensor(checkpoint.array(name)).float()
    if not matrix.isfinite().all():
        raise StartError(f"the tensor {name} holds NaN or infinity; fetch it again")
    return matrix
