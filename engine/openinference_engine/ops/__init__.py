"""The one place where the implementation of each operation is chosen.

Layers call `ops.name(...)` and never know which kernel runs. `KERNEL_PATH` names the choice: it is
part of the resume key, because another kernel may draw another token. Without the compiled module
(OPENINFERENCE_NATIVE=none) the plain-torch reference computes everything.
"""

from importlib.util import find_spec

from openinference_engine.ops.plan import NO_WINDOW, AttentionPlan, windows_of

if find_spec("openinference_engine._cpu") is not None:
    from openinference_engine.ops.cpu import (
        KERNEL_PATH,
        ExpertWeights,
        LayerCache,
        Weight,
        append_kv,
        embedding,
        experts,
        linear,
        pack,
        paged_attention,
        rms_norm,
        rotate,
        route,
        silu_mul,
        use_threads,
    )
else:
    from openinference_engine.ops.kv_cache import LayerCache  # type: ignore[assignment]
    from openinference_engine.ops.reference import (  # type: ignore[assignment]
        KERNEL_PATH,
        ExpertWeights,
        Weight,
        append_kv,
        embedding,
        experts,
        linear,
        pack,
        paged_attention,
        rms_norm,
        rotate,
        route,
        silu_mul,
        use_threads,
    )

__all__ = [
    "KERNEL_PATH",
    "NO_WINDOW",
    "AttentionPlan",
    "ExpertWeights",
    "LayerCache",
    "Weight",
    "append_kv",
    "embedding",
    "experts",
    "linear",
    "pack",
    "paged_attention",
    "rms_norm",
    "rotate",
    "route",
    "silu_mul",
    "use_threads",
    "windows_of",
]
