"""What of a model's summary, as `openinference model` tells its shape, can be reckoned with."""

from collections.abc import Mapping
from typing import Any

# What it must say, each a whole number above zero, and what those of older engines do not.
SIZES = ("parameters", "weightBytes", "numLayers", "numKvHeads", "headDim", "maxPositions")
MORE_SIZES = (
    *("numHeads", "numExperts", "expertParameters", "hiddenSize", "intermediateSize"),
    *("vocabSize", "embeddingBytes", "headBytes", "layerWeightsPerToken"),
)


def read_summary(said: Any) -> Mapping[str, Any] | None:
    """A summary whose sizes can be reckoned with, else None."""
    if not isinstance(said, dict) or not all(_is_count(said.get(name)) for name in SIZES):
        return None
    return said if all(_is_count(said.get(name, 0), least=0) for name in MORE_SIZES) else None


def _is_count(number: Any, least: int = 1) -> bool:
    return type(number) is int and number >= least
