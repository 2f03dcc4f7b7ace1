"""The versions that this engine says of itself."""

from importlib.metadata import version

VERSION = version("openinferencev2")

# Grows whenever the same weights and kernels may draw another token than before.
NUMERICS_VERSION = 3
