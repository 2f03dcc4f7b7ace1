"""One layer of experts on this CPU: as one operation, and expert by expert as Python would do it.

    python -m benchmarks.experts [--rows 1 8 32 256]

Qwen3-30B-A3B's shape, random Q4_0 weights, routed at random. The limit is the memory: the bytes of
the experts that the rows use, at the speed of a copy in the same run.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from openinference_engine import ops

from benchmarks.limits import copy_bytes_per_second, seconds_of

HIDDEN, INNER, EXPERTS, CHOSEN = 2048, 768, 128, 8
BLOCK, BLOCK_BYTES = 32, 18  # of Q4_0
EXPERT_BYTES = 3 * HIDDEN * INNER // BLOCK * BLOCK_BYTES

Matrices = tuple[list[ops.Weight], list[ops.Weight], list[ops.Weight]]


def random_matrices() -> Matrices:
    """Gates, ups and downs."""
    generator = np.random.default_rng(0)

    def one(outputs: int, inputs: int) -> ops.Weight:
        blocks = generator.integers(0, 256, (outputs, inputs // BLOCK, BLOCK_BYTES), dtype=np.uint8)
        blocks[..., :2] = np.array([0.01], dtype=np.float16).view(np.uint8)
        return ops.pack("Q4_0", [blocks.reshape(outputs, -1)], inputs)

    shapes = [(INNER, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)]
    gates, ups, downs = ([one(*shape) for _ in range(EXPERTS)] for shape in shapes)
    return gates, ups, downs


def one_by_one(
    x: torch.Tensor, ids: torch.Tensor, shares: torch.Tensor, matrices: Matrices
) -> torch.Tensor:
    """The same with the operations that dense layers use."""
    gates, ups, downs = matrices
    output = torch.zeros_like(x)
    for number in sorted(set(ids.flatten().tolist())):
        rows, places = (ids == number).nonzero(as_tuple=True)
        chosen = x[rows]
        gate_up = torch.cat([ops.linear(chosen, part[number]) for part in (gates, ups)], dim=-1)
        result = ops.linear(ops.silu_mul(gate_up), downs[number])
        output[rows] += shares[rows, places, None] * result
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32, 256])
    matrices = random_matrices()
    weights = ops.ExpertWeights(*matrices)
    device = torch.device("cpu")
    speed = copy_bytes_per_second(device, 1 << 28)
    print("| rows | experts used | limit, ms | one operation, ms | one by one, ms | gain |")
    print("| --- | --- | --- | --- | --- | --- |")
    for rows in parser.parse_args().rows:
        x = torch.randn(rows, HIDDEN)
        ids, shares = ops.route(torch.randn(rows, EXPERTS), CHOSEN, True)
        used = len(torch.unique(ids))
        together = seconds_of(partial(ops.experts, x, ids, shares, weights), device)
        apart = seconds_of(partial(one_by_one, x, ids, shares, matrices), device)
        print(
            f"| {rows} | {used} | {used * EXPERT_BYTES / speed * 1e3:.2f} | {together * 1e3:.2f} | "
            f"{apart * 1e3:.2f} | {apart / together:.1f}× |",
            flush=True,
        )


if __name__ == "__main__":
    main()
