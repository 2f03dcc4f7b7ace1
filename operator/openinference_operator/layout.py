"""The ranks of a replica and the pods they run in, as docs/wire.md numbers them: pure.

A rank has a GPU of its own, so a pod of G GPUs runs G ranks. Without GPUs each stage of a pipeline
is a pod: more stages in one pod would share its cores and gain nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from openinference_operator.gpu_format import keeps_codes
from openinference_operator.parallelism_spec import Parallelism

MOST_TENSOR_GPUS = 8  # of the engine's kernels
# What the kernels take of a matrix is a multiple of so many columns, of weights and of codes
# (openinference_engine.llama_weights.check_supported).
WEIGHT_COLUMNS, CODE_COLUMNS = 32, 128
HEAD_COLUMNS = (64, 128)


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
        size
        for size in _divisors(num_heads)
        if num_kv_heads % size == 0 or size % num_kv_heads == 0
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
            f" {kv_heads} key heads of the model; use {_listed(sizes)}"
        )
    if "numExperts" in summary and max(1, experts) % layout.expert:
        has = f"the {experts} experts of the model" if experts else "a model without experts"
        return (
            f"parallelism.expert {layout.expert} does not divide {has};"
            f" use {_listed(_divisors(max(1, experts)))}"
        )
    return ""


def find_gpu_misfit(layout: Layout, summary: Mapping[str, Any]) -> str:
    """What the engine does not do on GPUs (its ranks.sharing); empty if it does."""
    ranks, columns = layout.ranks_per_stage, _columns(summary)
    if unknown := _unknown_to_kernels(summary):
        return f"the kernels of GPUs take {unknown}; leave nvidia.com/gpu out of spec.resources"
    sharing = f"parallelism.tensor {layout.tensor}"
    sharing += f" and expert {layout.expert}" if layout.expert > 1 else ""
    if ranks > MOST_TENSOR_GPUS:
        return f"{sharing}: more ranks than GPUs can be; use 1 to {MOST_TENSOR_GPUS}"
    heads, kv_heads = query_heads(summary), int(summary["numKvHeads"])
    sizes = [size for size in tensor_sizes(heads, kv_heads) if size <= MOST_TENSOR_GPUS]
    if ranks not in sizes:
        return (
            f"{sharing}: {ranks} GPUs do not divide the {heads} query heads and {kv_heads} key"
            f" heads of the model, as they do beside experts; use {_listed(sizes)} in all"
        )
    sizes = [size for size in sizes if not _uneven_widths(size, summary)]
    if ranks not in sizes:
        return (
            f"{sharing}: {ranks} GPUs do not divide the model's {_uneven_widths(ranks, summary)}"
            f" into multiples of {columns}; use {_listed(sizes)} in all"
        )
    if expert_columns(summary) % (layout.tensor * columns):
        return (
            f"parallelism.tensor {layout.tensor} does not divide the {expert_columns(summary)}"
            f" columns of an expert into multiples of {columns}; use"
            f" {_ways_to_share_experts(ranks, sizes, summary)}"
        )
    return ""


def expert_columns(summary: Mapping[str, Any]) -> int:
    """Of the down projection of each expert, from the parameters of all; 0 without experts."""
    experts, hidden = int(summary.get("numExperts", 0)), int(summary.get("hiddenSize", 0))
    matrices = 3 * int(summary["numLayers"]) * experts
    return int(summary.get("expertParameters", 0)) // max(1, matrices * hidden)


def _unknown_to_kernels(summary: Mapping[str, Any]) -> str:
    """What they take instead of what no number of GPUs does (the engine's check_supported)."""
    if (head := int(summary["headDim"])) not in HEAD_COLUMNS:
        return f"heads of {_listed(HEAD_COLUMNS)} columns, and the model's have {head}"
    widths = _cut_widths(summary) | {
        "hidden size": int(summary.get("hiddenSize", 0)),
        "experts": expert_columns(summary),
    }
    columns = _columns(summary)
    odd = _named(widths, columns)
    return f"multiples of {columns} columns, and the model has {odd}" if odd else ""


def _uneven_widths(ranks: int, summary: Mapping[str, Any]) -> str:
    """The matrices cut by columns, output and down, of which ranks would not get what kernels take.

    Of down also beside experts, since any layer may be without.
    """
    return _named(_cut_widths(summary), ranks * _columns(summary))


def _cut_widths(summary: Mapping[str, Any]) -> dict[str, int]:
    return {
        "heads": query_heads(summary) * int(summary["headDim"]),
        "intermediate size": int(summary.get("intermediateSize", 0)),  # older engines do not tell
    }


def _named(widths: Mapping[str, int], multiple: int) -> str:
    """Those that are no such multiple."""
    return " and ".join(
        f"{name} ({width} columns)" for name, width in widths.items() if width % multiple
    )


def _ways_to_share_experts(ranks: int, sizes: list[int], summary: Mapping[str, Any]) -> str:
    """As many GPUs by other sizes; where there are none, which numbers of `sizes` can."""
    if found := _expert_sizes(ranks, sizes, summary):
        expert, tensor = found[0], ranks // found[0]
        return f"tensor {tensor} and expert {expert}" if tensor > 1 else f"expert {expert}"
    others = (size for size in sizes if _expert_sizes(size, sizes, summary))
    return f"{_listed(others)} GPUs in all"


def _expert_sizes(ranks: int, sizes: list[int], summary: Mapping[str, Any]) -> list[int]:
    """Into how many parts of whole experts so many GPUs may go, the fewest first.

    `sizes`: how many may cut an expert, for the heads' sake.
    """
    return [
        size
        for size in _divisors(ranks)
        if int(summary["numExperts"]) % size == 0
        and ranks // size in sizes
        and expert_columns(summary) % (ranks // size * _columns(summary)) == 0
    ]


def _columns(summary: Mapping[str, Any]) -> int:
    return CODE_COLUMNS if keeps_codes(summary) else WEIGHT_COLUMNS


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


def _divisors(number: int) -> list[int]:
    return [size for size in range(1, number + 1) if number % size == 0]


def _listed(numbers: Iterable[int]) -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} or {last}" if first else last
