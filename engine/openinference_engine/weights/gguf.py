"""Reads the GGUF container: metadata and tensor directory, over one memory map.

Knows the file format only (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), nothing of
models or tokenizers. Tensor bytes are views into the map: nothing is copied until it is used.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openinference_engine.errors import StartError
from openinference_engine.weights.quantisation import FORMATS

_MAGIC = b"GGUF"
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
# What reading a directory that does not mean what it says may raise.
_DAMAGES = (struct.error, IndexError, KeyError, ValueError, OverflowError, MemoryError, TypeError)


class CutShort(StartError):
    """A file ends too early: before the end of its header, or in a tensor."""

    def __init__(self, message: str, *, has_whole_header: bool) -> None:
        super().__init__(message)
        self.has_whole_header = has_whole_header


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies. `shape` is outermost first, the reverse of the file's order."""

    shape: tuple[int, ...]
    type_id: int
    start: int
    num_bytes: int


class GGUFFile:
    """An open GGUF file. Raises StartError if it is not one, or is cut short."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise StartError(f"{path} is not a GGUF file (it does not begin with 'GGUF')")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            self._read_directory()
        except _DAMAGES as error:
            message = f"{path} is damaged or cut short: {error}; fetch it again"
            raise CutShort(message, has_whole_header=False) from error

    def bytes_of(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes of a tensor, as a view into the map."""
        info = self.tensors[name]
        return np.frombuffer(self._map, np.uint8, info.num_bytes, info.start)

    def array(self, name: str) -> npt.NDArray[Any]:
        """A tensor as float32, or in its stored float type when it has one (bfloat16: uint16)."""
        info = self.tensors[name]
        return FORMATS[info.type_id].unpack(self.bytes_of(name)).reshape(info.shape)

    def _read_directory(self) -> None:
        cursor = _Cursor(self._map, len(_MAGIC))
        version = cursor.scalar("I")
        if version not in (2, 3):
            raise StartError(f"{self.path} is GGUF version {version}; versions 2 and 3 are read")
        num_tensors, num_entries = cursor.scalar("Q"), cursor.scalar("Q")
        self.metadata: dict[str, Any] = {}
        for _ in range(num_entries):
            key = cursor.string()
            self.metadata[key] = cursor.value(cursor.scalar("I"))
        entries = [self._read_entry(cursor) for _ in range(num_tensors)]
        alignment = int(self.metadata.get("general.alignment", 32)) or 1
        base = -(-cursor.position // alignment) * alignment
        self.header = bytes(self._map[: cursor.position])
        self.tensors = {
            name: self._locate(name, base, shape, type_id, offset)
            for name, shape, type_id, offset in entries
        }

    @staticmethod
    def _read_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
        name = cursor.string()
        dimensions = [cursor.scalar("Q") for _ in range(cursor.scalar("I"))]
        return name, tuple(reversed(dimensions)), cursor.scalar("I"), cursor.scalar("Q")

    def _locate(
        self, name: str, base: int, shape: tuple[int, ...], type_id: int, offset: int
    ) -> TensorInfo:
        if type_id not in FORMATS:
            known = ", ".join(kind.name for kind in FORMATS.values())
            raise StartError(f"{self.path}: {name!r} has GGUF type {type_id}; known are {known}")
        if not shape or shape[-1] % FORMATS[type_id].weights_per_block or 0 in shape:
            raise StartError(
                f"{self.path}: {name!r} of shape {shape} is no {FORMATS[type_id].name} matrix; "
                "fetch it again"
            )
        num_bytes = FORMATS[type_id].num_bytes(math.prod(shape))
        if base + offset + num_bytes > len(self._map):
            message = f"{self.path} is cut short in tensor {name!r}; fetch it again"
            raise CutShort(message, has_whole_header=True)
        return TensorInfo(shape, type_id, base + offset, num_bytes)


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, buffer: mmap.mmap, position: int) -> None:
        self._buffer = buffer
        self.position = position

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._buffer, self.position)
        self.position += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self._buffer):
            raise IndexError("a string runs past the end of the file")
        return self._buffer[start : self.position].decode()

    def value(self, type_id: int) -> Any:
        if type_id == _STRING:
            return self.string()
        if type_id == _ARRAY:
            return self._array()
        return self.scalar(_SCALARS[type_id])

    def _array(self) -> list[Any]:
        type_id, length = self.scalar("I"), self.scalar("Q")
        if type_id not in _SCALARS:
            return [self.value(type_id) for _ in range(length)]
        values = struct.unpack_from(f"<{length}{_SCALARS[type_id]}", self._buffer, self.position)
        self.position += struct.calcsize(f"<{length}{_SCALARS[type_id]}")
        return list(values)
