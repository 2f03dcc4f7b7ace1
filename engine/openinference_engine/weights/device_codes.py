"""Stored codes on a GPU: as the kernels' formats take them, or expanded where none does.

`kernel_formats` says which formats those are. A scale is rounded to bfloat16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from openinference_engine.config import WeightFormat
from openinference_engine.tiles import GROUP_COLUMNS
from openinference_engine.weights.stored_codes import StoredCodes


def kernel_parts(stored: StoredCodes, weight_format: WeightFormat) -> tuple[Tensor, ...]:
    """What the format's `pack` takes, for codes of `kernel_format` or int4 as int4-zero."""
    codes, scales = stored.codes(), _by_group(stored, stored.scales_by_output()).bfloat16()
    match weight_format:
        case "fp8":
            return codes, scales
        case "int8":
            whole = codes if codes.dtype == torch.int8 else (codes - 128).to(torch.int8)
            return whole, scales
        case "int4":
            return codes.to(torch.uint8), scales
    zeros = stored.zeros_by_output()
    zeros = torch.full_like(scales, 8) if zeros is None else _by_group(stored, zeros)
    return codes.to(torch.uint8), scales, zeros.to(torch.uint8)


def expand(stored: StoredCodes) -> Tensor:
    """(outputs, inputs) float32: what the codes stand for."""
    codes: Tensor = stored.codes()
    zeros: Tensor | None = stored.zeros_by_output()
    groups = torch.tensor(stored.groups, dtype=torch.long, device=codes.device)
    scales = _for_all_outputs(stored, stored.scales_by_output().float())[:, groups]
    if stored.layout == "e4m3":
        return codes.view(torch.float8_e4m3fn).float() * scales
    if stored.layout == "int8":
        return codes.float() * scales
    middle = 1 << stored.bits - 1
    return (codes - (middle if zeros is None else zeros[:, groups])).float() * scales


def _by_group(stored: StoredCodes, values: Tensor) -> Tensor:
    """(outputs, inputs / 128), one value for each of the kernels' groups."""
    times = (stored.group_size or GROUP_COLUMNS) // GROUP_COLUMNS
    return _for_all_outputs(stored, values).repeat_interleave(times, dim=1)


def _for_all_outputs(stored: StoredCodes, values: Tensor) -> Tensor:
    return values.repeat_interleave(stored.shape[0] // len(values), dim=0)
