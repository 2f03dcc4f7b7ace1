"""Matrices of a checkpoint one below another, on their way to the device.

Kernels read what belongs together as one matrix: queries, keys and values; gate and up. Each part
is copied straight to its rows of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.config import WeightFormat
from openinference_engine.packings import PACKINGS, pack_matrix
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.upload import Upload, element_type


class Stack:
    def __init__(
        self, weights: Weights, sizes: dict[str, int], inputs: int, upload: Upload
    ) -> None:
        """Begins the copies. sizes: the rows of each matrix, whose columns are `inputs`.

        Raises StartError if one is missing or of another shape.
        """
        rows = list(sizes.values())
        self._whole = torch.empty(sum(rows), inputs, dtype=torch.bfloat16, device=upload.device)
        self._others: list[tuple[Tensor, Tensor]] = []  # parts, and what becomes them when rounded
        for name, part in zip(sizes, torch.split(self._whole, rows), strict=True):
            array = weights.array(f"{name}.weight", tuple(part.shape))
            if element_type(array) == part.dtype:
                upload.copy(array, part)
            else:
                self._others.append((part, upload.tensor(array)))

    def dense(self) -> Tensor:
        """The whole in bfloat16, once the copies have arrived."""
        for part, stored in self._others:
            part.copy_(stored)
        return self._whole

    def packed(self, weight_format: WeightFormat, row_order: Tensor) -> Tensor:
        """The same as kernels read it."""
        if weight_format == "bfloat16":
            return self.dense()
        return pack_matrix(PACKINGS[weight_format], self.dense(), row_order)
