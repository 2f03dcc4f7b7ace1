"""Which weights `engine.activations` multiplies as codes: pure, on the summary of a model.

As the engine refuses the others when it starts (its coded_kernels.check_activations), which is
after pods are made.
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator.gpu_format import gpu_format
from openinference_operator.layout import Layout, query_heads

# engine.activations: the weights that it takes, as `gpu_format` names them.
WEIGHTS_OF = {"fp8": ("fp8", "int4", "int4-zero"), "int8": ("int8",)}
MOST_COLUMNS = {"fp8": 65_536}  # of a row that is coded


def find_activations_misfit(
    activations: str | None, layout: Layout, summary: Mapping[str, Any]
) -> str:
    """Why the weights, widths or ranks of a model on GPUs are not for them; empty if they are."""
    if activations not in WEIGHTS_OF:
        return ""
    if layout.num_ranks > 1 or summary.get("numExperts"):
        return (
            f"engine.activations {activations} is for dense models on one GPU so far; leave it out,"
            " or use one GPU and a model without experts"
        )
    taken, kept = WEIGHTS_OF[activations], gpu_format(summary)
    if not kept or kept in taken:
        return _too_wide(activations, summary)
    return (
        f"engine.activations {activations} is for weights that a GPU reads as {' or '.join(taken)},"
        f" and it reads this model's, stored as {summary.get('storedAs')}, as {kept}; leave it out,"
        f" or use a model that `openinference quantize --weights {taken[0]}` writes"
    )


def _too_wide(activations: str, summary: Mapping[str, Any]) -> str:
    widest, most = _widest(summary), MOST_COLUMNS.get(activations)
    if most is None or widest <= most:
        return ""
    return (
        f"engine.activations {activations} codes rows of at most {most} columns, and this model has"
        f" some of {widest}; leave it out"
    )


def _widest(summary: Mapping[str, Any]) -> int:
    """Columns of the widest input of a product, as far as the summary tells."""
    of_heads = query_heads(summary) * int(summary["headDim"]) if "headDim" in summary else 0
    return max(
        of_heads, *(int(summary.get(name, 0)) for name in ("hiddenSize", "intermediateSize"))
    )
