"""Matrices of a checkpoint one below another, on their way to the device.

Kernels read what belongs together as one matrix: queries, keys and values; gate and up. A part in
bfloat16 is copied straight to its rows of the whole. Codes are copied as they are stored, and stay
the codes they are where a format of the kernels holds them; blocks of GGUF files are expanded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.config import WeightFormat
from openinference_engine.packings import PACKINGS, pack_matrix
from openinference_engine.weights.device_blocks import expand as expand_blocks
from openinference_engine.weights.device_codes import expand, kernel_parts
from openinference_engine.weights.kernel_formats import kernel_format
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stored_codes import StoredCodes
from openinference_engine.weights.upload import Upload, element_type

_ROWS_AT_ONCE = 2048  # of blocks: what they become on the way takes many times their bytes
_FOUR_BITS: set[WeightFormat | None] = {"int4", "int4-zero"}


class Stack:
    def __init__(
        self, weights: Weights, sizes: dict[str, int], inputs: int, upload: Upload
    ) -> None:
        """Begins the copies. sizes: the rows of each matrix, whose columns are `inputs`.

        Raises StartError if one is missing or of another shape.
        """
        rows = list(sizes.values())
        self._whole = torch.empty(sum(rows), inputs, dtype=torch.bfloat16, device=upload.device)
        self._parts = dict(zip(sizes, torch.split(self._whole, rows), strict=True))
        self._others: dict[str, Tensor] = {}  # parts in other types, to be rounded
        self._codes: dict[str, StoredCodes] = {}
        self._blocks: dict[str, tuple[str, Tensor]] = {}  # their format, and rows of bytes
        for name, part in self._parts.items():
            self._begin(f"{name}.weight", name, part, weights, upload)

    def _begin(
        self, full_name: str, name: str, part: Tensor, weights: Weights, upload: Upload
    ) -> None:
        shape = tuple(part.shape)
        stored = weights.codes(full_name, shape)
        if stored is not None:
            self._codes[name] = stored.without_plain_zeros().moved(upload.tensor)
            return
        blocks = weights.blocks(full_name, shape)
        if blocks is not None:
            self._blocks[name] = blocks.format, upload.tensor(blocks.rows)
            return
        array = weights.array(full_name, shape)
        if element_type(array) == part.dtype:
            upload.copy(array, part)
        else:
            self._others[name] = upload.tensor(array)

    def dense(self) -> Tensor:
        """The whole in bfloat16, once the copies have arrived."""
        for name, stored in self._others.items():
            self._parts[name].copy_(stored)
        for name, codes in self._codes.items():
            self._parts[name].copy_(expand(codes))
        for name, (block_format, rows) in self._blocks.items():
            pieces = (torch.split(whole, _ROWS_AT_ONCE) for whole in (self._parts[name], rows))
            for part, stored in zip(*pieces, strict=True):
                part.copy_(expand_blocks(block_format, stored))
        return self._whole

    def packed(self, weight_format: WeightFormat, row_order: Tensor) -> Tensor:
        """The same as kernels read it."""
        if weight_format == "bfloat16":
            return self.dense()
        kept = self._kept_format(weight_format)
        if kept is None:
            return pack_matrix(PACKINGS[weight_format], self.dense(), row_order)
        columns = zip(*(kernel_parts(codes, kept) for codes in self._codes.values()), strict=True)
        whole = (torch.cat(parts) for parts in columns)
        return PACKINGS[kept].pack(*whole, row_order.to(self._whole.device))

    def _kept_format(self, wanted: WeightFormat) -> WeightFormat | None:
        """The format that holds all codes as they are, if it has the bits that are wanted."""
        if len(self._codes) < len(self._parts):
            return None
        formats = {kernel_format(codes) for codes in self._codes.values()}
        if formats <= _FOUR_BITS and wanted in _FOUR_BITS:
            return "int4-zero" if "int4-zero" in formats else "int4"
        return wanted if formats == {wanted} else None
