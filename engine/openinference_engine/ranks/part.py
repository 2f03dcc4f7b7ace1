"""One rank's part of a Llama for the CUDA kernels: its heads, its inner columns, its vocabulary.

Output and down projections are cut by columns, so what a rank makes of them is a term of a sum; all
else by rows. Of experts each rank has a part of all, or all of a part, or a part of a part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec
import numpy.typing as npt

from openinference_engine.config import ExpertsConfig, GroupConfig, ModelConfig
from openinference_engine.ranks.layout import kv_heads_of, share, vocabulary_of
from openinference_engine.ranks.team import Team
from openinference_engine.weights.checkpoint import ALL, Checkpoint, StoredMatrix, StoredTensor
from openinference_engine.weights.coded_checkpoint import Coded
from openinference_engine.weights.stored_codes import StoredCodes


def part_of(model: ModelConfig, team: Team, expert: int = 1) -> ModelConfig:
    """The model as far as one rank's kernels see it; the vocabulary stays whole.

    expert: in so many parts whole experts are divided among the team, whose neighbours share them.
    """
    kv_heads = kv_heads_of(model, team.size, team.index)
    return msgspec.structs.replace(
        model,
        num_heads=model.num_heads // team.size,
        num_kv_heads=kv_heads.stop - kv_heads.start,
        intermediate_size=model.intermediate_size // team.size,
        experts=model.experts and _part_of_experts(model.experts, team, expert),
    )


def _part_of_experts(experts: ExpertsConfig, team: Team, expert: int) -> ExpertsConfig:
    slices = team.size // expert
    return msgspec.structs.replace(
        experts,
        intermediate_size=experts.intermediate_size // slices,
        part=(team.index // slices, expert),
    )


def first_part(model: ModelConfig, group: GroupConfig) -> ModelConfig:
    """What the first rank of a stage sees; no other has more."""
    return part_of(model, Team(0, group.ranks_per_stage), group.expert)


class CheckpointPart:
    """A checkpoint of which a rank sees its part of each layer's matrices and of the head; nothing
    else is read of them.
    """

    def __init__(self, whole: Checkpoint, team: Team, expert: int = 1) -> None:
        """As `part_of`."""
        model = whole.config
        self.config = part_of(model, team, expert)
        self.fingerprint = whole.fingerprint
        self._whole = whole
        heads = share(model.num_heads, team.size, team.index)
        kv_heads = kv_heads_of(model, team.size, team.index)
        inner = share(model.intermediate_size, team.size, team.index)
        queries, keys = (_scaled(part, model.head_dim) for part in (heads, kv_heads))
        self._rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        self._rows |= {"gate_proj": inner, "up_proj": inner}
        self._rows["lm_head"] = vocabulary_of(model.vocab_size, team.size, team.index)
        self._columns = {"o_proj": queries, "down_proj": inner}
        if model.experts is not None:
            slices = team.size // expert
            own = share(model.experts.intermediate_size, slices, team.index % slices)
            self._rows |= {"experts.gate_proj": own, "experts.up_proj": own}
            self._columns["experts.down_proj"] = own

    def names(self) -> frozenset[str]:
        return self._whole.names()

    def tensors(self) -> Iterable[StoredTensor]:
        return self._whole.tensors()

    def array(self, name: str, rows: slice = ALL, columns: slice = ALL) -> npt.NDArray[Any]:
        """rows, columns: of the part; of what is cut only all of them, else ValueError."""
        own_rows, own_columns = self._own(name)
        for what, asked, own in (("rows", rows, own_rows), ("columns", columns, own_columns)):
            if ALL not in (asked, own):
                raise ValueError(f"{name}: its {what} are cut; ask for all of a part, not {asked}")
        rows = rows if own_rows == ALL else own_rows
        return self._whole.array(name, rows, columns if own_columns == ALL else own_columns)

    def is_coded(self, name: str) -> bool:
        return isinstance(self._whole, Coded) and self._whole.is_coded(name)

    def stored_codes(self, name: str) -> StoredCodes:
        """This rank's part of a matrix of codes."""
        return cast(Coded, self._whole).stored_codes(name).part(*self._own(name))

    def _own(self, name: str) -> tuple[slice, slice]:
        """The rows and columns of a matrix that this rank has."""
        *path, owner, _ = name.split(".")
        if "experts" in path:
            owner = f"experts.{owner}"
        return self._rows.get(owner, ALL), self._columns.get(owner, ALL)

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        """Whole: the kernels have formats of their own."""
        return self._whole.stored(name, rows)


def _scaled(part: slice, size: int) -> slice:
    return slice(part.start * size, part.stop * size)
