"""Keys and values as codes and back, in plain torch: the oracle of csrc/cpu/cache.cpp.

Letters: D elements of a vector, E bytes of its codes, N numbers beside them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.kv_formats import VectorFormat

_LARGEST_INT8, _LARGEST_FP8, _LARGEST_INT4 = 127, 448, 15


def encode(vectors: Tensor, vector_format: VectorFormat) -> tuple[Tensor, Tensor]:
    """vectors: (..., D) float32 → codes (..., E) uint8, numbers (..., N) float16.

    float32 stays as it is: (..., D).
    """
    match vector_format.name:
        case "int8":
            scales = _scales(vectors.abs().amax(-1, keepdim=True) / _LARGEST_INT8)
            codes = (vectors / scales).round().clamp(-_LARGEST_INT8, _LARGEST_INT8)
            return codes.to(torch.int8).view(torch.uint8), scales.half()
        case "fp8":
            scales = _scales(vectors.abs().amax(-1, keepdim=True) / _LARGEST_FP8)
            floats = (vectors / scales).clamp(-_LARGEST_FP8, _LARGEST_FP8)
            return floats.to(torch.float8_e4m3fn).view(torch.uint8), scales.half()
        case "int4":
            minima = vectors.amin(-1, keepdim=True).half().float()
            scales = _scales((vectors.amax(-1, keepdim=True) - minima) / _LARGEST_INT4)
            codes = ((vectors - minima) / scales).round().clamp(0, _LARGEST_INT4)
            low, high = codes.to(torch.uint8).chunk(2, dim=-1)
            return low | high << 4, torch.cat([scales, minima], dim=-1).half()
    return vectors, vectors.new_empty(*vectors.shape[:-1], 0, dtype=torch.float16)


def decode(codes: Tensor, numbers: Tensor, vector_format: VectorFormat) -> Tensor:
    """The inverse, but for what rounding took: (..., D) float32."""
    match vector_format.name:
        case "int8":
            return codes.view(torch.int8).float() * numbers.float()
        case "fp8":
            return codes.view(torch.float8_e4m3fn).float() * numbers.float()
        case "int4":
            scales, minima = numbers.float().chunk(2, dim=-1)
            return torch.cat([codes & 15, codes >> 4], dim=-1).float() * scales + minima
    return codes


def _scales(wanted: Tensor) -> Tensor:
    """In half precision; 1 where it would be 0."""
    rounded = wanted.half().float()
    return torch.where(rounded == 0, 1.0, rounded)
