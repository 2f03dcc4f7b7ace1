"""The operations on our own CPU kernels (csrc/cpu): checks, allocates, hands over addresses.

Names, arguments and meaning are those of `reference.py`. Inputs are float32; a row's result has the
same bits whatever the batch, its place in it, the number of threads and the instruction set.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine import _cpu
from openinference_engine.limits import processor_limit
from openinference_engine.ops.plan import AttentionPlan

Weight = _cpu.Packed

KERNEL_PATH = "cpu"  # one for all instruction sets: they agree to the bit


def pack(format_name: str, stored: list[npt.NDArray[np.uint8]], inputs: int) -> Weight:
    rows = np.ascontiguousarray(np.concatenate(stored))
    return _cpu.Packed(format_name, rows.ctypes.data, len(rows), inputs)


@cache
def operations() -> _cpu.Operations:
    """The kernels and their threads, as many as the cgroup grants, started at the first use."""
    # Torch's own threads would spin beside ours after each of its operations.
    torch.set_num_threads(1)
    return _cpu.Operations(processor_limit())


def embedding(token_ids: Tensor, weight: Weight) -> Tensor:
    _check(token_ids, "token_ids", torch.int64, (None,))
    output = torch.empty(len(token_ids), weight.inputs)
    operations().embedding(weight, token_ids.data_ptr(), len(token_ids), output.data_ptr())
    return output


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    stride = _row_stride(x, "x", (None, weight.inputs))
    if bias is not None:
        _check(bias, "bias", torch.float32, (weight.outputs,))
    output = torch.empty(len(x), weight.outputs)
    operations().linear(
        weight,
        x.data_ptr(),
        stride,
        len(x),
        0 if bias is None else bias.data_ptr(),
        False,
        output.data_ptr(),
    )
    return output


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    stride = _row_stride(x, "x", (None, None))
    rows, columns = x.shape
    _check(weight, "weight", torch.float32, (columns,))
    output = torch.empty(rows, columns)
    operations().rms_norm(
        x.data_ptr(), stride, weight.data_ptr(), epsilon, rows, columns, output.data_ptr()
    )
    return output


def silu_mul(gate_up: Tensor) -> Tensor:
    stride = _row_stride(gate_up, "gate_up", (None, None))
    rows, columns = gate_up.shape
    if columns % 2:
        raise ValueError(f"gate_up: {columns} columns are no pair of halves; stack gate and up")
    output = torch.empty(rows, columns // 2)
    operations().silu_mul(gate_up.data_ptr(), stride, rows, columns // 2, output.data_ptr())
    return output


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    stride = _row_stride(x, "x", (None, None, None))
    rows, heads, head_dim = x.shape
    _check(cosine, "cosine", torch.float32, (rows, head_dim // 2))
    _check(sine, "sine", torch.float32, (rows, head_dim // 2))
    operations().rotate(
        x.data_ptr(), stride, cosine.data_ptr(), sine.data_ptr(), rows, heads, head_dim
    )


def append_kv(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    cache = _cache(keys, values)
    rows, kv_heads, head_dim = len(key), values.shape[1], values.shape[3]
    key_stride = _row_stride(key, "key", (None, kv_heads, head_dim))
    value_stride = _row_stride(value, "value", (rows, kv_heads, head_dim))
    _check(slots, "slots", torch.int64, (rows,))
    operations().append_kv(
        key.data_ptr(), key_stride, value.data_ptr(), value_stride, cache, slots.data_ptr(), rows
    )


def paged_attention(query: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> Tensor:
    cache = _cache(keys, values)
    kv_heads, head_dim, sequences = values.shape[1], values.shape[3], len(plan.lengths)
    stride = _row_stride(query, "query", (None, None, head_dim))
    rows, heads, _ = query.shape
    if heads % kv_heads:
        raise ValueError(f"query: {heads} heads are no multiple of the {kv_heads} heads of keys")
    _check(plan.starts, "plan.starts", torch.int32, (sequences + 1,))
    _check(plan.lengths, "plan.lengths", torch.int32, (sequences,))
    _check(plan.blocks, "plan.blocks", torch.int32, (sequences, None))
    output = torch.empty(rows, heads, head_dim)
    operations().paged_attention(
        query.data_ptr(),
        stride,
        cache,
        sequences,
        plan.starts.data_ptr(),
        plan.lengths.data_ptr(),
        plan.blocks.data_ptr(),
        plan.blocks.shape[1],
        heads,
        head_dim**-0.5,
        rows,
        output.data_ptr(),
    )
    return output


Shape = tuple[int | None, ...]  # None admits any length


def _check(tensor: Tensor, name: str, dtype: torch.dtype, shape: Shape) -> None:
    """Raises ValueError unless the tensor is contiguous and of this type and shape."""
    _check_shape(tensor, name, dtype, shape)
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: strides {tensor.stride()} have gaps; call .contiguous()")


def _row_stride(tensor: Tensor, name: str, shape: Shape) -> int:
    """Elements from one row to the next of a float32 tensor; each row must be without gaps."""
    _check_shape(tensor, name, torch.float32, shape)
    expected = 1
    for length, stride in zip(reversed(tensor.shape[1:]), reversed(tensor.stride()), strict=False):
        if length > 1 and stride != expected:
            raise ValueError(
                f"{name}: strides {tensor.stride()} have gaps inside a row; call .contiguous()"
            )
        expected *= length
    return tensor.stride(0)


def _check_shape(tensor: Tensor, name: str, dtype: torch.dtype, shape: Shape) -> None:
    if tensor.dtype is not dtype:
        raise ValueError(f"{name}: is {tensor.dtype}; give {dtype}")
    if len(tensor.shape) != len(shape) or any(
        wanted is not None and wanted != length
        for length, wanted in zip(tensor.shape, shape, strict=True)
    ):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name}: has shape {tuple(tensor.shape)}; give ({wanted})")


def _cache(keys: Tensor, values: Tensor) -> _cpu.Cache:
    blocks, kv_heads, size, head_dim = values.shape
    _check(keys, "keys", torch.float32, (blocks, kv_heads, head_dim, size))
    _check(values, "values", torch.float32, (blocks, kv_heads, size, head_dim))
    return _cpu.Cache(keys.data_ptr(), values.data_ptr(), blocks, kv_heads, head_dim, size)
