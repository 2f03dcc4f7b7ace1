"""The operations on our own CPU kernels (csrc/cpu): checks, allocates, hands over addresses.

Names, arguments and meaning are those of `reference.py`. Inputs are float32; a row's result has the
same bits whatever the batch, its place in it, the number of threads and the instruction set.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openinference_engine import _cpu
from openinference_engine.limits import processor_limit
from openinference_engine.ops import kv_cache
from openinference_engine.ops.plan import NO_WINDOW, AttentionPlan

Weight = _cpu.Packed
ExpertWeights = _cpu.Experts

KERNEL_PATH = "cpu"  # one for all instruction sets: they agree to the bit


def pack(format_name: str, stored: list[npt.NDArray[np.uint8]], inputs: int) -> Weight:
    rows = np.ascontiguousarray(np.concatenate(stored))
    return _cpu.Packed(format_name, rows.ctypes.data, len(rows), inputs)


@cache
def operations() -> _cpu.Operations:
    """The kernels and their threads, as many as the cgroup grants, started at the first use."""
    threads = min(processor_limit(), torch.get_num_threads())
    # Torch's own threads would spin beside ours after each of its operations.
    torch.set_num_threads(1)
    return _cpu.Operations(threads)


def use_threads(count: int) -> None:
    """At most so many threads compute; to be said before the first operation."""
    torch.set_num_threads(count)


def embedding(token_ids: Tensor, weight: Weight) -> Tensor:
    rows = token_ids.shape[0]
    ids = _address(token_ids, "token_ids", torch.int64, rows)
    output = torch.empty(rows, weight.inputs)
    operations().embedding(weight, ids, rows, output.data_ptr())
    return output


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    address, stride = _rows(x, "x", weight.inputs)
    rows, outputs = x.shape[0], weight.outputs
    bias_address = 0 if bias is None else _address(bias, "bias", torch.float32, outputs)
    output = torch.empty(rows, outputs)
    operations().linear(weight, address, stride, rows, bias_address, output.data_ptr())
    return output


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    columns = weight.shape[0]
    scales = _address(weight, "weight", torch.float32, columns)
    address, stride = _rows(x, "x", columns)
    rows = x.shape[0]
    output = torch.empty(rows, columns)
    operations().rms_norm(address, stride, scales, epsilon, rows, columns, output.data_ptr())
    return output


def silu_mul(gate_up: Tensor) -> Tensor:
    columns = gate_up.shape[-1]
    address, stride = _rows(gate_up, "gate_up", columns)
    if columns % 2:
        raise ValueError(f"gate_up: {columns} columns are no pair of halves; stack gate and up")
    rows = gate_up.shape[0]
    output = torch.empty(rows, columns // 2)
    operations().silu_mul(address, stride, rows, columns // 2, output.data_ptr())
    return output


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    rows, heads, head_dim = x.shape
    address, stride = _rows(x, "x", heads, head_dim)
    cosines = _address(cosine, "cosine", torch.float32, rows, head_dim // 2)
    sines = _address(sine, "sine", torch.float32, rows, head_dim // 2)
    operations().rotate(address, stride, cosines, sines, rows, heads, head_dim)


class LayerCache(kv_cache.LayerCache):
    """With what the kernels know it by."""

    @cached_property
    def native(self) -> _cpu.Cache:
        keys, values = (
            _cpu.Vectors(vectors.format.name, vectors.codes.data_ptr(), vectors.numbers.data_ptr())
            for vectors in (self.keys, self.values)
        )
        return _cpu.Cache(
            keys, values, self.num_blocks, self.kv_heads, self.head_dim, self.block_size
        )


def append_kv(key: Tensor, value: Tensor, cache: LayerCache, slots: Tensor) -> None:
    key_address, key_stride = _rows(key, "key", cache.kv_heads, cache.head_dim)
    value_address, value_stride = _rows(value, "value", cache.kv_heads, cache.head_dim)
    rows = min(key.shape[0], value.shape[0])
    operations().append_kv(
        key_address,
        key_stride,
        value_address,
        value_stride,
        cache.native,
        _address(slots, "slots", torch.int64, rows),
        rows,
    )


def route(logits: Tensor, chosen: int, normalise: bool) -> tuple[Tensor, Tensor]:
    rows, experts = logits.shape
    address, stride = _rows(logits, "logits", experts)
    ids = torch.empty(rows, chosen, dtype=torch.int64)
    shares = torch.empty(rows, chosen)
    operations().route(
        address, stride, experts, chosen, normalise, rows, ids.data_ptr(), shares.data_ptr()
    )
    return ids, shares


def experts(x: Tensor, ids: Tensor, shares: Tensor, weights: ExpertWeights) -> Tensor:
    rows, chosen = ids.shape
    address, stride = _rows(x, "x", weights.hidden)
    output = torch.empty(rows, weights.hidden)
    operations().experts(
        weights,
        address,
        stride,
        rows,
        _address(ids, "ids", torch.int64, x.shape[0], chosen),
        _address(shares, "shares", torch.float32, rows, chosen),
        chosen,
        output.data_ptr(),
    )
    return output


def paged_attention(
    query: Tensor, cache: LayerCache, plan: AttentionPlan, window: int = NO_WINDOW
) -> Tensor:
    rows, heads, _ = query.shape
    head_dim = cache.head_dim
    address, stride = _rows(query, "query", heads, head_dim)
    if heads % cache.kv_heads:
        raise ValueError(f"query: {heads} heads are no multiple of the {cache.kv_heads} of keys")
    sequences, width = plan.blocks.shape
    output = torch.empty(rows, heads, head_dim)
    operations().paged_attention(
        address,
        stride,
        cache.native,
        sequences,
        _address(plan.starts, "plan.starts", torch.int32, sequences + 1),
        _address(plan.lengths, "plan.lengths", torch.int32, sequences),
        _address(plan.blocks, "plan.blocks", torch.int32, sequences, width),
        width,
        heads,
        head_dim**-0.5,
        window,
        rows,
        output.data_ptr(),
    )
    return output


# Several hundred of these checks belong to each step, so the way without an error is short.


def _address(tensor: Tensor, name: str, dtype: torch.dtype, *shape: int) -> int:
    """Where a tensor of exactly this type and shape lies, without gaps. Else raises ValueError."""
    if tensor.dtype is dtype and tensor.shape == shape and tensor.is_contiguous():
        return tensor.data_ptr()
    raise ValueError(_refusal(tensor, name, dtype, shape) or f"{name}: {_gaps(tensor)}")


def _rows(tensor: Tensor, name: str, *row: int) -> tuple[int, int]:
    """Where rows of this shape lie, and the elements from one to the next: rows may lie apart.

    float32. Raises ValueError for another type or shape, or gaps inside a row.
    """
    if tensor.dtype is torch.float32 and tensor.shape[1:] == row:
        if tensor.is_contiguous() or not len(tensor) or tensor[0].is_contiguous():
            return tensor.data_ptr(), tensor.stride(0)
        raise ValueError(f"{name}: {_gaps(tensor)}")
    raise ValueError(_refusal(tensor, name, torch.float32, ("any", *row)))


def _refusal(
    tensor: Tensor, name: str, dtype: torch.dtype, shape: tuple[int | str, ...]
) -> str | None:
    if tensor.dtype is not dtype:
        return f"{name}: is {tensor.dtype}; give {dtype}"
    if tensor.shape != shape:
        return f"{name}: has shape {tuple(tensor.shape)}; give ({', '.join(map(str, shape))})"
    return None


def _gaps(tensor: Tensor) -> str:
    return f"strides {tensor.stride()} leave gaps inside a row; call .contiguous()"
