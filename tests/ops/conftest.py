"""Ways to run the CPU kernels, and random weights in every stored format."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from openinference_engine.weights.quantisation import FORMATS

BLOCK_FORMATS = {known.name: known for known in FORMATS.values() if known.weights_per_block > 1}
INSTRUCTION_SETS = ("avx512", "avx2", "portable")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def random_blocks() -> Callable[..., Any]:
    return _random_blocks


def _random_blocks(name: str, outputs: int, inputs: int, seed: int = 0) -> Any:
    """(outputs, bytes of a row) of any codes, with scales of a common size."""
    generator = np.random.default_rng(seed)
    known = BLOCK_FORMATS[name]
    shape = (outputs, inputs // known.weights_per_block)
    stored = generator.integers(0, 256, (*shape, known.block.itemsize), dtype=np.uint8)
    blocks = stored.view(known.block)
    for field in ("scale", "minimum"):
        if field in (known.block.names or ()):
            blocks[field] = generator.normal(0, 0.01, blocks.shape)
    return stored.reshape(outputs, -1)


@pytest.fixture
def run_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets the operations run on another number of threads or instruction set."""
    from openinference_engine.ops import cpu

    def choose(threads: int = 2, isa: str = "") -> None:
        chosen = _operations(threads, isa)
        monkeypatch.setattr(cpu, "operations", lambda: chosen)

    return choose


@cache
def _operations(threads: int, isa: str) -> Any:
    from openinference_engine import _cpu

    return _cpu.Operations(threads, isa)


@pytest.fixture(params=INSTRUCTION_SETS)
def each_isa(request: pytest.FixtureRequest, run_with: Callable[..., None]) -> str:
    """Runs the test once per instruction set that this processor has."""
    try:
        run_with(isa=request.param)
    except ValueError as error:
        pytest.skip(str(error))
    return str(request.param)
