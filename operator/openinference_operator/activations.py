"""Which weights `engine.activations` multiplies as codes: pure, on the summary of a model.

As the engine refuses the others when it starts (its coded_kernels.check_activations), which is
after pods are made.
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator.layout import Layout

# engine.activations: the weights that it takes, as `_weights_kept` names them.
WEIGHTS_OF = {"fp8": ("fp8", "int4"), "int8": ("int8",)}
_BYTES = {"F8_E4M3": "fp8", "I8": "int8"}  # as safetensors files call what holds a code each
_WORDS = "I32"  # of several codes, of four or of eight bits


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
    taken, stored = WEIGHTS_OF[activations], str(summary.get("storedAs", ""))
    if not stored or (kept := _weights_kept(stored, summary)) in taken:
        return ""  # older engines do not tell how weights are stored
    needed = " or ".join(taken)
    return (
        f"engine.activations {activations} is for weights stored as {needed}, and most of this"
        f" model's are {kept or stored}; leave it out, or use a model that `openinference quantize"
        f" --weights {taken[0]}` writes"
    )


def _weights_kept(stored: str, summary: Mapping[str, Any]) -> str:
    """What GPUs keep as it is stored; empty if that is no code of theirs."""
    if stored != _WORDS:
        return _BYTES.get(stored, "")
    tables = 2 if summary.get("headBytes") else 1
    of_tables = tables * int(summary.get("vocabSize", 0)) * int(summary.get("hiddenSize", 0))
    of_layers = int(summary["parameters"]) - of_tables
    stored_bytes = int(summary["weightBytes"]) - sum(
        int(summary.get(name, 0)) for name in ("embeddingBytes", "headBytes")
    )
    return "int4" if 4 * stored_bytes < 3 * of_layers else "int8"  # scales are some of the bytes
