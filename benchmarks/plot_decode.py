"""Draw what `benchmarks.decode` printed: share of the copy bandwidth, and ratio to the peer.

    python -m benchmarks.decode --weights int4 | tee decode.log
    python -m benchmarks.plot_decode decode.log [more.log ...] --out docs/decode.svg

Where several lines tell of the same weights and batch the last one counts.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from openinference_engine.config import GroupConfig

from benchmarks.peers import tokens_per_second

_SPEED = re.compile(r"b(\d+): (\d+) tok/s.* (\d+)% of the copy bandwidth")


@dataclass(frozen=True, slots=True)
class Point:
    weights: str
    batch: int
    tokens_per_second: float
    share: float  # of the copy bandwidth


def points(lines: Iterable[str], shape: str) -> Iterator[Point]:
    """Of the runs over this shape on one GPU; a line of options precedes those of its batches."""
    name = ""
    for line in lines:
        if line.startswith("{"):
            options = ast.literal_eval(line)
            sizes = ("tensor_parallel", "expert_parallel", "pipeline_parallel")
            ranks = math.prod(options.get(size, 1) for size in sizes)
            activations = options.get("activations", "auto")
            name = options["weights"] if options["shape"] == shape and ranks == 1 else ""
            name += "" if not name or activations == "auto" else f" × {activations}"
        elif name and (found := _SPEED.match(line)):
            batch, speed, percent = map(int, found.groups())
            yield Point(name, batch, speed, percent / 100)


def draw(found: Iterable[Point], shape: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    latest = {(point.weights, point.batch): point for point in found}
    drawing, (shares, ratios) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for weights in sorted({point.weights for point in latest.values()}):
        own = sorted((p for p in latest.values() if p.weights == weights), key=lambda p: p.batch)
        shares.plot([p.batch for p in own], [p.share for p in own], marker="o", label=weights)
        peers = [
            tokens_per_second(GroupConfig(), shape, weights.partition(" ")[0], point.batch)
            for point in own
        ]
        pairs = [
            (point.batch, point.tokens_per_second / peer)
            for point, peer in zip(own, peers, strict=True)
            if peer is not None
        ]
        if pairs:
            ratios.plot(*zip(*pairs, strict=True), marker="o", label=weights)
    for axes, title in ((shares, "share of the copy bandwidth"), (ratios, "ratio to the peer")):
        axes.set_xscale("log", base=2)
        batches = sorted({point.batch for point in latest.values()})
        axes.set_xticks(batches, map(str, batches))
        axes.set(title=f"{shape}, {title}", xlabel="sequences", ylim=(0, None))
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.legend()
    drawing.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--shape", default="llama-2-7b")
    parser.add_argument("--out", type=Path, default=Path("docs/decode.svg"))
    options = parser.parse_args()
    lines = (line for log in options.logs for line in log.read_text().splitlines())
    draw(points(lines, options.shape), options.shape, options.out)


if __name__ == "__main__":
    main()
