"""A directory of safetensors files with config.json as a checkpoint."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import ALL, StoredMatrix, StoredTensor
from openinference_engine.weights.config_file import read_config
from openinference_engine.weights.gguf_checkpoint import FINGERPRINT_BYTES_PER_TENSOR
from openinference_engine.weights.safetensors_file import SafetensorsFile

# Mixtral's own names of what the others call `mlp`.
MIXTRAL_NAMES = {
    "block_sparse_moe": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}


class SafetensorsCheckpoint:
    """Raises StartError if a file is missing, damaged or of an unknown type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = [SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
        if not self._files:
            raise StartError(f"{folder} holds no .safetensors file")
        self._places = {
            _standard_name(name): (file, name) for file in self._files for name in file.entries
        }

    @cached_property
    def config(self) -> ModelConfig:
        return read_config(self.folder / "config.json")

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256((self.folder / "config.json").read_bytes())
        for file in self._files:
            digest.update(file.header)
            for name in sorted(file.entries):
                digest.update(file.bytes_of(name)[:FINGERPRINT_BYTES_PER_TENSOR].data)
        return digest.hexdigest()

    def names(self) -> frozenset[str]:
        return frozenset(self._places)

    def tensors(self) -> Iterator[StoredTensor]:
        for file in self._files:
            for stored_name, entry in file.entries.items():
                name, size = _standard_name(stored_name), math.prod(entry.shape)
                yield StoredTensor(name, entry.dtype, size, entry.num_bytes)

    def array(self, name: str, rows: slice = ALL, columns: slice = ALL) -> npt.NDArray[Any]:
        file, stored_name = self._places[name]
        return file.array(stored_name)[rows][..., columns]

    def stored(self, name: str, rows: slice = ALL) -> StoredMatrix:
        file, stored_name = self._places[name]
        matrix = file.stored(stored_name)
        return replace(matrix, rows=matrix.rows[rows])


def _standard_name(name: str) -> str:
    return ".".join(MIXTRAL_NAMES.get(part, part) for part in name.split("."))
