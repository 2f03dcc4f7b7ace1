"""The one place where the implementation of each operation is chosen.

Layers call `ops.name(...)` and never know which kernel runs. `KERNEL_PATH` names the choice: it is
part of the resume key, because another kernel may draw another token.
"""

from openinference_engine.ops.reference import (
    AttentionPlan,
    append_kv,
    embedding,
    linear,
    paged_attention,
    rms_norm,
    rotate,
    silu_mul,
)

KERNEL_PATH = "torch-reference"

__all__ = [
    "KERNEL_PATH",
    "AttentionPlan",
    "append_kv",
    "embedding",
    "linear",
    "paged_attention",
    "rms_norm",
    "rotate",
    "silu_mul",
]
