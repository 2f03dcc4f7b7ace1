"""In which format a GPU reads a model's matrices: pure, on the summary of a model.

The engine says it of what it has looked at. Of headers alone, as `openinference plan` may have
them, and by engines that did not say it, it is guessed as if codes were such that kernels take
them.
"""

from collections.abc import Mapping
from typing import Any

PLAIN = "bfloat16"
_BYTES = {"F8_E4M3": "fp8", "I8": "int8"}  # as safetensors files call what holds a code each
_WORDS = "I32"  # of several codes, of four or of eight bits


def gpu_format(summary: Mapping[str, Any]) -> str:
    """One of bfloat16, fp8, int8, int4 and int4-zero; empty if it is not known."""
    stored = str(summary.get("storedAs", ""))
    if said := summary.get("gpuFormat"):
        return str(said)
    if stored == _WORDS:
        return _format_of_words(summary)
    return _BYTES.get(stored, PLAIN) if stored else ""


def keeps_codes(summary: Mapping[str, Any]) -> bool:
    """Whether a GPU reads stored codes as they are."""
    return gpu_format(summary) not in ("", PLAIN)


def _format_of_words(summary: Mapping[str, Any]) -> str:
    tables = 2 if summary.get("headBytes") else 1
    of_tables = tables * int(summary.get("vocabSize", 0)) * int(summary.get("hiddenSize", 0))
    of_layers = int(summary["parameters"]) - of_tables
    stored_bytes = int(summary["weightBytes"]) - sum(
        int(summary.get(name, 0)) for name in ("embeddingBytes", "headBytes")
    )
    return "int4" if 4 * stored_bytes < 3 * of_layers else "int8"  # scales are some of the bytes
