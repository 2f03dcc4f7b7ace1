"""The threads of the CPU kernels: idle ones sleep, and callers on several threads take turns."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("openinference_engine._cpu", reason="the CPU kernels are not built")

from openinference_engine import _cpu
from openinference_engine.ops import cpu


def test_idle_threads_use_no_processor(run_with):
    run_with(threads=4)
    weight = cpu.pack("F32", [torch.randn(256, 256).view(torch.uint8).numpy()], 256)
    cpu.linear(torch.randn(8, 256), weight)
    time.sleep(0.05)  # what they spin for at the most, many times over
    before = time.process_time()

    time.sleep(0.5)

    assert time.process_time() - before < 0.25, "of half a second on every processor"


def test_threads_wake_up_again(run_with):
    run_with(threads=3)
    weight = cpu.pack("F32", [torch.randn(256, 256).view(torch.uint8).numpy()], 256)
    x = torch.randn(8, 256)
    first = cpu.linear(x, weight)

    for _ in range(20):
        time.sleep(0.002)
        assert torch.equal(cpu.linear(x, weight), first)


def test_callers_on_several_threads_take_turns(run_with):
    run_with(threads=2)
    weight = cpu.pack("F32", [torch.randn(256, 256).view(torch.uint8).numpy()], 256)
    inputs = [torch.randn(rows, 256) for rows in range(1, 33)]
    expected = [cpu.linear(x, weight) for x in inputs]

    with ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda x: cpu.linear(x, weight), inputs))

    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


PACKERS = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from openinference_engine.ops import cpu
stored = [np.zeros((64, 68), np.uint8)]
with ThreadPoolExecutor(8) as packers:
    for _ in packers.map(lambda _: cpu.pack("Q8_0", stored, 64), range(32_000)):
        pass
"""


def test_several_threads_may_pack_at_once():
    """As ranks that are threads of one process do; in a process of its own, for it was aborted."""
    subprocess.run([sys.executable, "-c", PACKERS], check=True)


def test_operations_end_with_their_threads():
    for threads in (1, 2, 5):
        assert _cpu.Operations(threads).threads == threads


def test_unknown_instruction_set_is_refused():
    with pytest.raises(ValueError, match="instruction set mmx is unknown or not on this processor"):
        _cpu.Operations(1, "mmx")
