"""The ranks of a replica and the pods they run in, as docs/wire.md numbers them: pure.

A rank has a GPU of its own, so a pod of G GPUs runs G ranks. Without GPUs each stage of a pipeline
is a pod: more stages in one pod would share its cores and gain nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from openinference_operator.parallelism_spec import Parallelism


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes along each axis, and the pods of the group; `pods` divides the number of ranks."""

    pipeline: int = 1
    tensor: int = 1
    expert: int = 1
    pods: int = 1

    @property
    def num_ranks(self) -> int:
        """Ranks of the group."""
        return self.pipeline * self.tensor * self.expert

    @property
    def ranks_per_stage(self) -> int:
        """Ranks that have the same layers."""
        return self.tensor * self.expert

    @property
    def ranks_per_pod(self) -> int:
        """Ranks in each of its pods."""
        return self.num_ranks // self.pods

    def __str__(self) -> str:
        sizes = f"pipeline {self.pipeline}, tensor {self.tensor}, expert {self.expert}"
        return f"{self.pods} {'pod' if self.pods == 1 else 'pods'}: {sizes}"

    def as_json(self) -> dict[str, int]:
        """As a revision keeps it."""
        return {
            "pipeline": self.pipeline,
            "tensor": self.tensor,
            "expert": self.expert,
            "pods": self.pods,
        }


ONE_RANK = Layout()


def read_layout(kept: Any) -> Layout:
    """What a revision keeps; one rank for a revision of an operator that knew no more."""
    if not isinstance(kept, Mapping):
        return ONE_RANK
    return Layout(**{name: int(kept.get(name, 1)) for name in ONE_RANK.as_json()})


def given_layout(parallelism: Parallelism, gpus_per_pod: int) -> Layout:
    """The layout of sizes that the user gave."""
    ranks, stages = parallelism.num_ranks, parallelism.pipeline
    pods = ranks // gpus_per_pod if gpus_per_pod else stages
    return Layout(stages, parallelism.tensor, parallelism.expert, pods)


def tensor_sizes(num_heads: int, num_kv_heads: int) -> list[int]:
    """Divisors of the query heads that split the key heads evenly, or repeat them evenly."""
    return [
        size for size in divisors(num_heads) if num_kv_heads % size == 0 or size % num_kv_heads == 0
    ]


def find_misfit(layout: Layout, summary: Mapping[str, Any]) -> str:
    """Which size the model cannot be divided by, with those that it can; empty if all are right."""
    layers, experts = int(summary["numLayers"]), int(summary.get("numExperts", 0))
    if layout.pipeline > layers:
        most = f"more than the {layers} layers of the model; use 1 to {layers}"
        return f"parallelism.pipeline {layout.pipeline} is {most}"
    heads, kv_heads = query_heads(summary), int(summary["numKvHeads"])
    if layout.tensor not in (sizes := tensor_sizes(heads, kv_heads)):
        return (
            f"parallelism.tensor {layout.tensor} does not divide the {heads} query heads and"
            f" {kv_heads} key heads of the model; use {listed(sizes)}"
        )
    if "numExperts" in summary and max(1, experts) % layout.expert:
        has = f"the {experts} experts of the model" if experts else "a model without experts"
        return (
            f"parallelism.expert {layout.expert} does not divide {has};"
            f" use {listed(divisors(max(1, experts)))}"
        )
    return ""


def split_layers(num_layers: int, stages: int, layer_cost: int, head_cost: int) -> list[int]:
    """How many layers each stage has: as the engine splits them (its ranks.layout.layers_of).

    The dearest stage is as cheap as can be; the last has the head.
    """
    others = stages - 1
    if not others:
        return [num_layers]

    def dearest(last: int) -> int:
        most = -(-(num_layers - last) // others)
        return max(most * layer_cost, last * layer_cost + head_cost)

    last = min(range(num_layers - others, 0, -1), key=dearest)
    ends = [(num_layers - last) * stage // others for stage in range(stages)]
    return [*(end - start for start, end in pairwise(ends)), last]


def with_more_stages(layout: Layout, num_layers: int) -> Iterator[Layout]:
    """The layout, then those of more and more stages in more pods, each pod as full as before."""
    of_stage, of_pod = layout.tensor * layout.expert, layout.ranks_per_pod
    for stages in range(layout.pipeline, num_layers + 1):
        if stages * of_stage % of_pod == 0:
            yield replace(layout, pipeline=stages, pods=stages * of_stage // of_pod)


def query_heads(summary: Mapping[str, Any]) -> int:
    """Query heads of a model, at least as many as its key heads."""
    return int(summary.get("numHeads") or summary["numKvHeads"])


def divisors(number: int) -> list[int]:
    """From 1 to the number itself."""
    return [size for size in range(1, number + 1) if number % size == 0]


def listed(numbers: Iterable[int]) -> str:
    """As people name a choice: 1, 2 or 4."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
