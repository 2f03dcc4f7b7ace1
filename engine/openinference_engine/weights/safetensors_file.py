"""One safetensors file: a length, a JSON header, then the bytes of all tensors, over a memory map.

The container (https://github.com/huggingface/safetensors#format) is read here directly: numpy has
no bfloat16, which the package's numpy reader therefore refuses.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import StoredMatrix

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # its bits: numpy has no name for it
    "I32": np.dtype("<i4"),  # words of codes, see quantised_checkpoint
    "I64": np.dtype("<i8"),
    "I8": np.dtype("i1"),
    "F8_E4M3": np.dtype("u1"),  # its bits
}


class Entry(msgspec.Struct, frozen=True):
    """What the header says of a tensor; offsets count from the end of the header."""

    dtype: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=1)], ...]
    data_offsets: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return self.data_offsets[1] - self.data_offsets[0]


class SafetensorsFile:
    """Raises StartError if the file is damaged, cut short or holds an unknown type."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise StartError(f"{path} is empty; fetch it again") from error
        self._data_start = 8 + int.from_bytes(self._map[:8], "little")
        self.header = self._map[8 : self._data_start]
        self.entries = self._read_header()
        for name, entry in self.entries.items():
            self._check(name, entry)

    def _read_header(self) -> dict[str, Entry]:
        try:
            raw = msgspec.json.decode(self.header, type=dict[str, msgspec.Raw])
            raw.pop("__metadata__", None)
            return {name: msgspec.json.decode(entry, type=Entry) for name, entry in raw.items()}
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StartError(f"{self.path} has a damaged header; fetch it again") from error

    def _check(self, name: str, entry: Entry) -> None:
        if entry.dtype not in _DTYPES:
            known = ", ".join(_DTYPES)
            raise StartError(f"{self.path}: {name!r} is {entry.dtype!r}; known are {known}")
        start, end = entry.data_offsets
        if self._data_start + end > len(self._map):
            raise StartError(f"{self.path} is cut short in tensor {name!r}; fetch it again")
        size = math.prod(entry.shape) * _DTYPES[entry.dtype].itemsize
        if start < 0 or entry.num_bytes != size:
            raise StartError(
                f"{self.path}: {name!r} of shape {entry.shape} needs {size} bytes and has "
                f"{entry.num_bytes}; fetch it again"
            )

    def bytes_of(self, name: str) -> npt.NDArray[np.uint8]:
        entry = self.entries[name]
        start = self._data_start + entry.data_offsets[0]
        return np.frombuffer(self._map, np.uint8, entry.num_bytes, start)

    def array(self, name: str) -> npt.NDArray[Any]:
        entry = self.entries[name]
        values: npt.NDArray[Any] = self.bytes_of(name).view(_DTYPES[entry.dtype])
        return values.reshape(entry.shape)

    def stored(self, name: str) -> StoredMatrix:
        entry = self.entries[name]
        rows = self.bytes_of(name).reshape(entry.shape[0] if entry.shape else 1, -1)
        return StoredMatrix(entry.dtype, entry.shape, rows)
