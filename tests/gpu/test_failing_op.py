"""An op that reads or writes what is not its own is named, by the mode that the error tells of.

In a process of its own: a GPU's context is of no use behind it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decoder import Decoder
from openinference_engine.step import Chunk, Step

from benchmarks.shapes import SHAPES, random_llama

ROOT = Path(__file__).parents[2]
TINY = SHAPES["tiny"]
FAR = 1 << 29  # blocks behind what any GPU has


def run_with_spoilt_page(kernels, page, uses_graphs):
    """A token at position 20: its row of keys goes to page 1, and it reads page 0 besides."""
    blocks, device = [0, 1], torch.device("cuda")
    blocks[page] = FAR
    weights = random_llama(TINY, 64, device)
    decoder = Decoder(kernels, weights, TINY, KVCache(TINY, 4, device), 4)
    runner = CudaRunner(kernels, decoder, uses_graphs=uses_graphs)
    runner.run(Step([Chunk("0", [5], 20, blocks, draw=None, targets=[6])]))


SCRIPT = """
from openinference_engine.ops.cuda import load_kernels
from tests.gpu.test_failing_op import run_with_spoilt_page
run_with_spoilt_page(load_kernels(), {page}, {uses_graphs})
"""


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("page", "uses_graphs", "environment", "named"),
    [
        (0, False, {"CUDA_LAUNCH_BLOCKING": "1"}, "attend: an illegal memory access"),
        (1, False, {"CUDA_LAUNCH_BLOCKING": "1"}, "project_qkv: an illegal memory access"),
        (0, True, {}, "to hear which op it is, start with CUDA_LAUNCH_BLOCKING=1"),
    ],
)
def test_an_op_that_leaves_its_memory_is_named(hopper, page, uses_graphs, environment, named):
    script = SCRIPT.format(page=page, uses_graphs=uses_graphs)
    path = os.pathsep.join([str(ROOT), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment | {"PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "in or before a step (rows: 1, sequences: 1, decoding: 1): " in result.stderr
    assert named in result.stderr
