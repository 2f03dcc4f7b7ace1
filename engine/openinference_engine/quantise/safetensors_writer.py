"""Writes safetensors files: the other direction of weights/safetensors_file.py.

A tensor is given as the bytes it is stored in, under the format's own name for their type: numpy
has none for bfloat16 and e4m3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
}
_ALIGNMENT = 8  # of the header, so that the data behind it is aligned


@dataclass(frozen=True, slots=True)
class RawTensor:
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]

    @staticmethod
    def of(tensor: torch.Tensor) -> RawTensor:
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        return RawTensor(_TYPES[tensor.dtype], tuple(tensor.shape), data)


def write_safetensors(path: Path, tensors: Mapping[str, RawTensor]) -> int:
    """Writes one file; returns the bytes of its tensors."""
    entries, position = {}, 0
    for name, tensor in tensors.items():
        end = position + tensor.data.nbytes
        entries[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (position, end),
        }
        position = end
    header = json.dumps({"__metadata__": {"format": "pt"}} | entries).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor.data).data)
    return position
