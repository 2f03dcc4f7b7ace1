"""In which format the kernels of a GPU read stored codes: known before anything is copied there.

Kernels know one scale for each row and 128 columns, so groups of a multiple of 128 are kept as they
are. Torch is not imported: the summary of a model tells the format, too.
"""

from __future__ import annotations

from openinference_engine.config import WeightFormat
from openinference_engine.weights.coded_checkpoint import CodedCheckpoint
from openinference_engine.weights.stored_codes import StoredCodes

GROUP_COLUMNS = 128  # as of tiles.py, which needs torch


def stored_format(checkpoint: object) -> WeightFormat:
    """In which format kernels read most of a checkpoint without rounding its matrices anew."""
    if not isinstance(checkpoint, CodedCheckpoint):
        return "bfloat16"
    names = sorted(name for name in checkpoint.names() if checkpoint.is_coded(name))
    if not names:
        return "bfloat16"
    return kernel_format(checkpoint.stored_codes(names[0]).without_plain_zeros()) or "bfloat16"


def kernel_format(stored: StoredCodes) -> WeightFormat | None:
    """The format that holds these codes as they are; None if there is none."""
    size = stored.group_size
    if size is None or size % GROUP_COLUMNS:
        return None
    match stored.layout, stored.bits, stored.zeros is None:
        case "e4m3", _, _:
            return "fp8"
        case _, 4, is_plain:
            return "int4" if is_plain else "int4-zero"
        case _, 8, True:
            return "int8"
    return None
