"""Named torch tensors out of a checkpoint, in the type the model computes with.

`Weights` is a view of a checkpoint under a name prefix: a model hands `weights.at("layers.0")` to a
layer, and the layer asks for the names it owns. Missing names are a StartError that says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from openinference_engine import ops
from openinference_engine.errors import StartError
from openinference_engine.ranks.team import ALONE, Ranks
from openinference_engine.weights.checkpoint import ALL, Checkpoint, StoredMatrix
from openinference_engine.weights.coded_checkpoint import Coded
from openinference_engine.weights.device_blocks import EXPANSIONS
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint
from openinference_engine.weights.stored_codes import StoredCodes

Observer = Callable[[Sequence[str], torch.Tensor], None]  # whole names of matrices, their inputs


@dataclass(frozen=True, slots=True)
class Weights:
    checkpoint: Checkpoint
    dtype: torch.dtype
    keeps_format: bool = False  # matrices stay as they are stored; else they become `dtype`
    prefix: str = ""
    ranks: Ranks = ALONE  # of which this one loads its part
    observe: Observer | None = None  # told of what each projection is given: calibration

    def at(self, name: str) -> Weights:
        """The same checkpoint, one level deeper."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        return self.prefix + name in self.checkpoint.names()

    def tensor(self, name: str, shape: tuple[int, ...], rows: slice = ALL) -> torch.Tensor:
        """The tensor in the model's type, of which `rows` are wanted.

        Raises StartError if it is missing or of another shape.
        """
        return as_tensor(self.array(name, shape, rows)).to(self.dtype)

    def array(self, name: str, shape: tuple[int, ...], rows: slice = ALL) -> npt.NDArray[Any]:
        """The same as the checkpoint holds it: a view of the file where it can be."""
        array = self.checkpoint.array(self._full_name(name), rows)
        wanted = len(range(*rows.indices(shape[0])))
        self._check_shape(name, array.shape, (wanted, *shape[1:]))
        return array

    def codes(self, name: str, shape: tuple[int, ...]) -> StoredCodes | None:
        """The codes of a matrix that is stored as such. Raises StartError as `tensor` does."""
        full_name, checkpoint = self._full_name(name), self.checkpoint
        if not isinstance(checkpoint, Coded) or not checkpoint.is_coded(full_name):
            return None
        codes = checkpoint.stored_codes(full_name)
        self._check_shape(name, codes.shape, shape)
        return codes

    def blocks(self, name: str, shape: tuple[int, ...]) -> StoredMatrix | None:
        """The matrix as a GGUF file holds it, if it is in blocks that devices expand.

        None for the parts of ranks. Raises StartError as `tensor` does.
        """
        full_name, checkpoint = self._full_name(name), self.checkpoint
        if not isinstance(checkpoint, GGUFCheckpoint):
            return None
        stored = checkpoint.stored(full_name)
        self._check_shape(name, stored.shape, shape)
        return stored if stored.format in EXPANSIONS else None

    def stored(self, name: str, shape: tuple[int, int], rows: slice = ALL) -> StoredMatrix:
        """The matrix, or a part of it, in the format it is to be kept in.

        Nothing else of it is read, if the file keeps rows apart. Raises StartError as `tensor`
        does.
        """
        if self.keeps_format:
            matrix = self.checkpoint.stored(self._full_name(name), rows)
            self._check_shape(name, matrix.shape, shape)
            return matrix
        values = self.tensor(name, shape, rows).view(torch.uint8).numpy()
        return StoredMatrix(_FORMAT_NAMES[self.dtype], shape, values)

    def matrix(self, name: str, shape: tuple[int, int], rows: slice = ALL) -> ops.Weight:
        """The matrix, or a part of it, as operations take it."""
        stored = self.stored(name, shape, rows)
        return ops.pack(stored.format, [stored.rows], shape[1])

    def _full_name(self, name: str) -> str:
        full_name = self.prefix + name
        if full_name not in self.checkpoint.names():
            raise StartError(f"the checkpoint lacks the tensor {full_name}; fetch it again")
        return full_name

    def _check_shape(self, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if found != wanted:
            raise StartError(
                f"the tensor {self.prefix}{name} has shape {found}, "
                f"the model's config says {wanted}"
            )


_FORMAT_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """An array of a checkpoint in its own type."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
