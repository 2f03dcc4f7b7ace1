"""One rank's part of a Llama for the CUDA kernels: its heads, its inner columns, its vocabulary.

Output and down projections are cut by columns, so what a rank makes of them is a term of a sum; all
else by rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.ranks.layout import kv_heads_of, share, vocabulary_of
from openinference_engine.ranks.team import Team
from openinference_engine.tiles import TILE_ROWS
from openinference_engine.weights.checkpoint import ALL, Checkpoint, StoredMatrix, StoredTensor


def part_of(model: ModelConfig, team: Team) -> ModelConfig:
    """The model as far as one rank's kernels see it; the vocabulary stays whole."""
    kv_heads = kv_heads_of(model, team.size, team.index)
    return msgspec.structs.replace(
        model,
        num_heads=model.num_heads // team.size,
        num_kv_heads=kv_heads.stop - kv_heads.start,
        intermediate_size=model.intermediate_size // team.size,
    )


class CheckpointPart:
    """A checkpoint of which a rank sees its part of each layer's matrices; nothing else is read,
    but of those cut by columns."""

    def __init__(self, whole: Checkpoint, team: Team) -> None:
        model = whole.config
        self.config = part_of(model, team)
        self.fingerprint = whole.fingerprint
        self._whole = whole
        heads = share(model.num_heads, team.size, team.index)
        kv_heads = kv_heads_of(model, team.size, team.index)
        inner = share(model.intermediate_size, team.size, team.index)
        queries, keys = (_scaled(part, model.head_dim) for part in (heads, kv_heads))
        self._rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        self._rows |= {"gate_proj": inner, "up_proj": inner}
        self._columns = {"o_proj": queries, "down_proj": inner}

    def names(self) -> frozenset[str]:
        return self._whole.names()

    def tensors(self) -> Iterable[StoredTensor]:
        return self._whole.tensors()

    def array(self, name: str, rows: slice = ALL) -> npt.NDArray[Any]:
        """rows: of the part; only all of them, of what is cut."""
        owner = name.split(".")[-2]
        if owner in self._columns:
            return np.ascontiguousarray(self._whole.array(name, rows)[:, self._columns[owner]])
        return self._whole.array(name, self._rows.get(owner, rows))

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        """Whole: the kernels have formats of their own."""
        return self._whole.stored(name, rows)


def with_part_of_head(weights: LlamaWeights, vocabulary: int, team: Team) -> LlamaWeights:
    """The weights with this rank's rows of the head alone."""
    rows = vocabulary_of(vocabulary, team.size, team.index)
    tiles = slice(rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS))
    is_packed = weights.head.dim() == 3
    own = tiles if is_packed else _scaled(tiles, TILE_ROWS)
    return replace(weights, head=weights.head[own].clone())


def _scaled(part: slice, size: int) -> slice:
    return slice(part.start * size, part.stop * size)
