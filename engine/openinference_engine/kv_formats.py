"""How keys and values may be kept in the cache, and what they take there; knows nothing of torch.

A vector is the key or the value of one head and token. Its codes stand beside numbers in half
precision that are its own ("per head and token"), so nothing has to be calibrated:

    fp8 (e4m3), int8    element = code * scale
    int4                element = code * scale + minimum, codes 0 to 15
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "auto" is the type that the kernels compute with. "int8-int4" is int8 keys and int4 values: four
# bits cost keys ten times what they cost values (docs/log.md, 2026-11-25).
KVCacheDtype = Literal["auto", "fp8", "int8", "int8-int4", "int4"]

CODED_ELEMENTS = 8  # a coded vector has a multiple of these: four bytes of int4


@dataclass(frozen=True, slots=True)
class VectorFormat:
    """`num_numbers`: how many half-precision numbers belong to a vector."""

    name: str
    bits: int
    num_numbers: int = 0

    @property
    def is_coded(self) -> bool:
        return self.num_numbers > 0

    def code_bytes(self, size: int) -> int:
        """Of a vector of `size` elements, without its numbers."""
        return size * self.bits // 8

    def vector_bytes(self, size: int) -> int:
        return self.code_bytes(size) + 2 * self.num_numbers


@dataclass(frozen=True, slots=True)
class CacheFormat:
    keys: VectorFormat
    values: VectorFormat

    @property
    def is_coded(self) -> bool:
        return self.keys.is_coded or self.values.is_coded

    def head_bytes(self, head_dim: int) -> int:
        """Of a key and a value."""
        return self.keys.vector_bytes(head_dim) + self.values.vector_bytes(head_dim)


_FLOAT32, _BFLOAT16 = VectorFormat("float32", 32), VectorFormat("bfloat16", 16)
FP8, INT8 = VectorFormat("fp8", 8, 1), VectorFormat("int8", 8, 1)
INT4 = VectorFormat("int4", 4, 2)

FLOAT32 = CacheFormat(_FLOAT32, _FLOAT32)  # what a CPU computes with
BFLOAT16 = CacheFormat(_BFLOAT16, _BFLOAT16)  # what a GPU computes with

CODED_FORMATS: dict[KVCacheDtype, CacheFormat] = {
    "fp8": CacheFormat(FP8, FP8),
    "int8": CacheFormat(INT8, INT8),
    "int8-int4": CacheFormat(INT8, INT4),
    "int4": CacheFormat(INT4, INT4),
}
CPU_FORMATS: dict[KVCacheDtype, CacheFormat] = {"auto": FLOAT32, **CODED_FORMATS}
CUDA_FORMATS: dict[KVCacheDtype, CacheFormat] = {"auto": BFLOAT16, **CODED_FORMATS}
