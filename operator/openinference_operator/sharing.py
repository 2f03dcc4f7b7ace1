"""How many GPUs may share a stage of a model, and its experts: pure.

The engine knows the same rules (its ranks.sharing) and refuses what breaks one when it starts,
which is after pods are made.
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator.gpu_format import keeps_codes
from openinference_operator.layout import Layout, divisors, listed, query_heads, tensor_sizes

MOST_TENSOR_GPUS = 8  # of the engine's kernels
# What the kernels take of a matrix is a multiple of so many columns, of weights and of codes
# (openinference_engine.llama_weights.check_supported).
WEIGHT_COLUMNS, CODE_COLUMNS = 32, 128
HEAD_COLUMNS = (64, 128)


def find_gpu_misfit(layout: Layout, summary: Mapping[str, Any]) -> str:
    """What the engine does not do on GPUs; empty if it does."""
    ranks, columns = layout.ranks_per_stage, _columns(summary)
    if unknown := _unknown_to_kernels(summary):
        return f"the kernels of GPUs take {unknown}; leave nvidia.com/gpu out of spec.resources"
    sharing = f"parallelism.tensor {layout.tensor}"
    sharing += f" and expert {layout.expert}" if layout.expert > 1 else ""
    if ranks > MOST_TENSOR_GPUS:
        return f"{sharing}: more ranks than GPUs can be; use 1 to {MOST_TENSOR_GPUS}"
    heads, kv_heads = query_heads(summary), int(summary["numKvHeads"])
    sizes = [size for size in tensor_sizes(heads, kv_heads) if size <= MOST_TENSOR_GPUS]
    if ranks not in sizes:
        return (
            f"{sharing}: {ranks} GPUs do not divide the {heads} query heads and {kv_heads} key"
            f" heads of the model, as they do beside experts; use {listed(sizes)} in all"
        )
    sizes = [size for size in sizes if not _uneven_widths(size, summary)]
    if ranks not in sizes:
        return (
            f"{sharing}: {ranks} GPUs do not divide the model's {_uneven_widths(ranks, summary)}"
            f" into multiples of {columns}; use {listed(sizes)} in all"
        )
    if expert_columns(summary) % (layout.tensor * columns):
        return (
            f"parallelism.tensor {layout.tensor} does not divide the {expert_columns(summary)}"
            f" columns of an expert into multiples of {columns}; use"
            f" {_ways_to_share_experts(ranks, sizes, summary)}"
        )
    return ""


def expert_columns(summary: Mapping[str, Any]) -> int:
    """Of the down projection of each expert, from the parameters of all; 0 without experts."""
    experts, hidden = int(summary.get("numExperts", 0)), int(summary.get("hiddenSize", 0))
    matrices = 3 * int(summary["numLayers"]) * experts
    return int(summary.get("expertParameters", 0)) // max(1, matrices * hidden)


def _unknown_to_kernels(summary: Mapping[str, Any]) -> str:
    """What they take instead of what no number of GPUs does (the engine's check_supported)."""
    if (head := int(summary["headDim"])) not in HEAD_COLUMNS:
        return f"heads of {listed(HEAD_COLUMNS)} columns, and the model's have {head}"
    widths = _cut_widths(summary) | {
        "hidden size": int(summary.get("hiddenSize", 0)),
        "experts": expert_columns(summary),
    }
    columns = _columns(summary)
    odd = _named(widths, columns)
    return f"multiples of {columns} columns, and the model has {odd}" if odd else ""


def _uneven_widths(ranks: int, summary: Mapping[str, Any]) -> str:
    """The matrices cut by columns, output and down, of which ranks would not get what kernels take.

    Of down also beside experts, since any layer may be without.
    """
    return _named(_cut_widths(summary), ranks * _columns(summary))


def _cut_widths(summary: Mapping[str, Any]) -> dict[str, int]:
    return {
        "heads": query_heads(summary) * int(summary["headDim"]),
        "intermediate size": int(summary.get("intermediateSize", 0)),  # older engines do not tell
    }


def _named(widths: Mapping[str, int], multiple: int) -> str:
    """Those that are no such multiple."""
    return " and ".join(
        f"{name} ({width} columns)" for name, width in widths.items() if width % multiple
    )


def _ways_to_share_experts(ranks: int, sizes: list[int], summary: Mapping[str, Any]) -> str:
    """As many GPUs by other sizes; where there are none, which numbers of `sizes` can."""
    if found := _expert_sizes(ranks, sizes, summary):
        expert, tensor = found[0], ranks // found[0]
        return f"tensor {tensor} and expert {expert}" if tensor > 1 else f"expert {expert}"
    others = (size for size in sizes if _expert_sizes(size, sizes, summary))
    return f"{listed(others)} GPUs in all"


def _expert_sizes(ranks: int, sizes: list[int], summary: Mapping[str, Any]) -> list[int]:
    """Into how many parts of whole experts so many GPUs may go, the fewest first.

    `sizes`: how many may cut an expert, for the heads' sake.
    """
    return [
        size
        for size in divisors(ranks)
        if int(summary["numExperts"]) % size == 0
        and ranks // size in sizes
        and expert_columns(summary) % (ranks // size * _columns(summary)) == 0
    ]


def _columns(summary: Mapping[str, Any]) -> int:
    return CODE_COLUMNS if keeps_codes(summary) else WEIGHT_COLUMNS
