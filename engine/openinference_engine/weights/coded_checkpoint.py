"""A checkpoint whose matrices are codes beside their scales, seen under the matrices' usual names.

Every layout of codes reads its matrices in its own way; what it does not know as codes passes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import ALL, Checkpoint, StoredMatrix, StoredTensor
from openinference_engine.weights.codes import Codes, as_half_precision, expand_e4m3
from openinference_engine.weights.stored_codes import StoredCodes


@runtime_checkable
class Coded(Protocol):
    """Of a checkpoint that may hand out codes as they are stored, to be unpacked elsewhere."""

    def is_coded(self, name: str) -> bool: ...

    def stored_codes(self, name: str) -> StoredCodes:
        """A matrix of codes as the file holds it. Raises StartError if its parts do not fit."""


SCALE_TYPES = (np.float16, np.uint16, np.float32)  # uint16: the bits of bfloat16


class CodedCheckpoint(ABC):
    def __init__(self, checkpoint: Checkpoint, plain: set[str], coded: set[str]) -> None:
        """plain: names that pass as they are. coded: of matrices that `stored_codes` gives."""
        self._checkpoint, self._coded = checkpoint, frozenset(coded)
        self._names = frozenset(plain | coded)

    @property
    def config(self) -> ModelConfig:
        return self._checkpoint.config

    @property
    def fingerprint(self) -> str:
        return self._checkpoint.fingerprint

    def names(self) -> frozenset[str]:
        return self._names

    def is_coded(self, name: str) -> bool:
        return name in self._coded

    @property
    def group_size(self) -> int | None:
        """Inputs of a group, where all are alike and the configuration tells; else None."""
        return None

    def tensors(self) -> Iterable[StoredTensor]:
        return self._checkpoint.tensors()

    def array(self, name: str, rows: slice = ALL, columns: slice = ALL) -> npt.NDArray[Any]:
        if not self.is_coded(name):
            return self._checkpoint.array(name, rows, columns)
        matrix, own = self._read(name, rows)
        return (matrix.expand() if isinstance(matrix, Codes) else matrix)[own, columns]

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        """The same format for every part, since kernels of others round otherwise."""
        if not self.is_coded(name):
            return self._checkpoint.stored(name, rows)
        matrix, own = self._read(name, rows)
        stored = matrix.stored() if isinstance(matrix, Codes) else as_half_precision(matrix)
        return StoredMatrix(stored.format, self.stored_codes(name).shape, stored.rows[own])

    @abstractmethod
    def stored_codes(self, name: str) -> StoredCodes:
        """A matrix of codes as the file holds it. Raises StartError if its parts do not fit."""

    def _read(self, name: str, rows: slice) -> tuple[Codes | npt.NDArray[np.float32], slice]:
        """The outputs whose words hold the rows, and which of these are the rows.

        Floats are what codes stand for that are no integers.
        """
        stored = self.stored_codes(name).without_plain_zeros()  # it looks at all zeros
        first, last, _ = rows.indices(stored.shape[0])
        begun = first // stored.outputs_per_word * stored.outputs_per_word
        ended = -(-last // stored.outputs_per_word) * stored.outputs_per_word
        part = stored.part(slice(begun, ended))
        matrix = expand_e4m3(part) if part.layout == "e4m3" else Codes.of(part)
        return matrix, slice(first - begun, last - begun)

    def _words(self, name: str) -> npt.NDArray[np.int32]:
        """A matrix of words, of codes or of zeros. Raises StartError if the tensor is none."""
        return self._matrix(name, "words", (np.int32,))

    def _matrix(self, name: str, what: str, types: tuple[type, ...]) -> npt.NDArray[Any]:
        """Raises StartError unless the tensor is a matrix of one of these types."""
        array = self._checkpoint.array(name)
        if array.ndim != 2 or array.dtype not in types:
            raise StartError(
                f"the tensor {name} is {array.dtype} of shape {array.shape}, where a matrix of "
                f"{what} belongs; fetch it again"
            )
        return array

    def _groups(
        self, matrix: str, order: str, inputs: int, count: int, size: int
    ) -> npt.NDArray[Any]:
        """The group of each input: as the tensor `order` says, else one after the other."""
        stored = order in self._checkpoint.names()
        groups = self._checkpoint.array(order) if stored else np.arange(inputs) // size
        fits = groups.shape == (inputs,) and groups.dtype.kind == "i"
        if not fits or groups.min() < 0 or groups.max() >= count:
            raise StartError(
                f"{matrix}: its {inputs} inputs do not fit {count} groups of {size}; fetch it again"
            )
        return groups
