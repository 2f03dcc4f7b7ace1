"""A checkpoint: the shape of a model, its named tensors and what identifies it.

Two containers are read, GGUF and safetensors; both answer with the same tensor names (those of the
safetensors files of the Llama family) and plain numpy arrays, so that nothing behind this module
knows which one it was. Never pickle, never code from a checkpoint. Torch is not imported here: the
API process opens checkpoints too, for the tokenizer and the fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError

ALL = slice(None)


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix as its file holds it: a format of `quantisation`, and each row's bytes.

    shape: the whole matrix's. rows: (outputs, bytes of a row) uint8, of the outputs asked for.
    """

    format: str
    shape: tuple[int, ...]
    rows: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """How much of a file one tensor takes, and in which format.

    A stack of matrices in a GGUF file goes by the name of its first.
    """

    name: str
    format: str
    num_values: int
    num_bytes: int


class Checkpoint(Protocol):
    """What a container must answer."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: hex digest over all headers and the start of every tensor."""

    def names(self) -> frozenset[str]: ...

    def tensors(self) -> Iterable[StoredTensor]:
        """Every tensor's size, read from the headers alone."""

    def array(self, name: str, rows: slice = ALL, columns: slice = ALL) -> npt.NDArray[Any]:
        """The tensor `name`: float32, float16, or the bits of bfloat16 as uint16.

        rows: of the outputs of a matrix, only these; heads of attention are asked for whole.
        columns: of its inputs. Nothing else is read, but what shares a block of a packed format.
        """

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        """The tensor `name` in its stored format, rows in the order that `array` has."""


def open_checkpoint(path: Path) -> Checkpoint:
    """Opens a .gguf file, or a directory of safetensors files with their config.json."""
    if path.is_dir():
        from openinference_engine.weights.quantised_checkpoint import open_quantised
        from openinference_engine.weights.safetensors_checkpoint import SafetensorsCheckpoint

        return open_quantised(SafetensorsCheckpoint(path), path / "config.json")
    if path.suffix == ".gguf":
        from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint

        return GGUFCheckpoint(path)
    raise StartError(f"{path} is neither a .gguf file nor a directory with safetensors files")
