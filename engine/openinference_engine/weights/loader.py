"""Named torch tensors out of a checkpoint, in the type the model computes with.

`Weights` is a view of a checkpoint under a name prefix: a model hands `weights.at("layers.0")` to a
layer, and the layer asks for the names it owns. Missing names are a StartError that says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from openinference_engine.errors import StartError
from openinference_engine.weights.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Weights:
    checkpoint: Checkpoint
    dtype: torch.dtype
    prefix: str = ""

    def at(self, name: str) -> Weights:
        """The same checkpoint, one level deeper."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def has(self, name: str) -> bool:
        return self.prefix + name in self.checkpoint.names()

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in the model's type. Raises StartError if missing or of another shape."""
        full_name = self.prefix + name
        if full_name not in self.checkpoint.names():
            raise StartError(f"the checkpoint lacks the tensor {full_name}; fetch it again")
        array = self.checkpoint.array(full_name)
        if array.shape != shape:
            raise StartError(
                f"the tensor {full_name} has shape {array.shape}, the model's config says {shape}"
            )
        return _as_tensor(array).to(self.dtype)


def _as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
