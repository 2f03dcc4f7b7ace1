"""A directory of safetensors files with config.json as a checkpoint.

The container is a JSON header and raw bytes (https://github.com/huggingface/safetensors#format), so
it is read here directly: numpy has no bfloat16, which the package's numpy reader therefore refuses.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from openinference_engine.config import ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import StoredMatrix, StoredTensor
from openinference_engine.weights.config_file import read_config
from openinference_engine.weights.gguf_checkpoint import FINGERPRINT_BYTES_PER_TENSOR

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # its bits: numpy has no name for it
}
# Mixtral's own names of what the others call `mlp`.
_MIXTRAL_NAMES = {
    "block_sparse_moe": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}


class SafetensorsCheckpoint:
    """Raises StartError if a file is missing, damaged or of an unknown type."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = [_SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
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
            for entry in file.entries.values():
                start, end = entry["data_offsets"]
                yield StoredTensor(entry["dtype"], math.prod(entry["shape"]), end - start)

    def array(self, name: str) -> npt.NDArray[Any]:
        file, stored_name = self._places[name]
        return file.array(stored_name)

    def stored(self, name: str) -> StoredMatrix:
        file, stored_name = self._places[name]
        return file.stored(stored_name)


def _standard_name(name: str) -> str:
    return ".".join(_MIXTRAL_NAMES.get(part, part) for part in name.split("."))


class _SafetensorsFile:
    """One mapped file: a length, a JSON header, then the bytes of all tensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._data_start = 8 + int.from_bytes(self._map[:8], "little")
        self.header = self._map[8 : self._data_start]
        try:
            self.entries: dict[str, dict[str, Any]] = msgspec.json.decode(self.header)
        except msgspec.DecodeError as error:
            raise StartError(f"{path} has a damaged header; fetch it again") from error
        self.entries.pop("__metadata__", None)
        for name, entry in self.entries.items():
            self._check(name, entry)

    def _check(self, name: str, entry: dict[str, Any]) -> None:
        if entry["dtype"] not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise StartError(f"{self.path}: {name} is {entry['dtype']}; known are {known}")
        start, end = entry["data_offsets"]
        if self._data_start + end > len(self._map):
            raise StartError(f"{self.path} is cut short in tensor {name}; fetch it again")
        size = math.prod(entry["shape"]) * _DTYPES[entry["dtype"]].itemsize
        if start < 0 or end - start != size:
            raise StartError(
                f"{self.path}: {name} of shape {entry['shape']} needs {size} bytes and has "
                f"{end - start}; fetch it again"
            )

    def bytes_of(self, name: str) -> npt.NDArray[np.uint8]:
        start, end = self.entries[name]["data_offsets"]
        return np.frombuffer(self._map, np.uint8, end - start, self._data_start + start)

    def array(self, name: str) -> npt.NDArray[Any]:
        entry = self.entries[name]
        values: npt.NDArray[Any] = self.bytes_of(name).view(_DTYPES[entry["dtype"]])
        return values.reshape(entry["shape"])

    def stored(self, name: str) -> StoredMatrix:
        entry = self.entries[name]
        shape = tuple(entry["shape"])
        return StoredMatrix(entry["dtype"], shape, self.bytes_of(name).reshape(shape[0], -1))
