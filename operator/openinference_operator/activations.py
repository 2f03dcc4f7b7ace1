"""Which weights `engine.activations` multiplies as codes: pure, on the summary of a model.

As the engine refuses the others when it starts (its coded_kernels.check_activations), which is
after pods are made.
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator.gpu_format import gpu_format
from openinference_operator.layout import Layout

# engine.activations: the weights that it takes, as `gpu_format` names them.
WEIGHTS_OF = {"fp8": ("fp8", "int4", "int4-zero"), "int8": ("int8",)}


def find_activations_misfit(
    activations: str | None, layout: Layout, summary: Mapping[str, Any]
) -> str:
    """Why the weights or the ranks of a model on GPUs are not for them; empty if they are."""
    if activations not in WEIGHTS_OF:
        return ""
    if layout.num_ranks > 1 or summary.get("numExperts"):
        return (
            f"engine.activations {activations} is for dense models on one GPU so far; leave it out,"
            " or use one GPU and a model without experts"
        )
    taken, kept = WEIGHTS_OF[activations], gpu_format(summary)
    if not kept or kept in taken:
        return ""
    return (
        f"engine.activations {activations} is for weights that a GPU reads as {' or '.join(taken)},"
        f" and it reads this model's, stored as {summary.get('storedAs')}, as {kept}; leave it out,"
        f" or use a model that `openinference quantize --weights {taken[0]}` writes"
    )
