"""Where the compiled kernels come from, and whether they are there.

Absent (a CPU build) is normal and says how to get them; present but broken raises what the loader
said. Names and arguments of the ops: csrc/ops.h; what they compute: cuda_reference.py.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from openinference_engine.errors import StartError

_MODULE = "openinference_engine._C"


def load_kernels() -> ModuleType:
    """The compiled kernels. Raises StartError if this installation was built without them."""
    try:
        return importlib.import_module(_MODULE)
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        raise StartError(
            "this installation has no CUDA kernels; build them with `make build-cuda` or "
            "install with OPENINFERENCE_NATIVE=cuda"
        ) from error
