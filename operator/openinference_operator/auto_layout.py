"""Which layout a replica gets whose sizes the user did not choose: pure, and told in words.

The ranks of a pod share a node and its fast links, so they split every matrix (tensor) as far as
the heads of the model divide; what they do not divide by becomes stages. Pods have a network
between them, over which only a pipeline's small messages should go: more pods are more stages, and
there are only as many as the memory asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openinference_operator.demand import Demand, measure
from openinference_operator.layout import (
    Layout,
    given_layout,
    query_heads,
    tensor_sizes,
    with_more_stages,
)
from openinference_operator.sizing import fewest_stages, human, needed_bytes
from openinference_operator.spec import InferenceService


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout, and why it is that one."""

    layout: Layout
    reason: str

    def __str__(self) -> str:
        return f"{self.layout} ({self.reason})"


def choose(
    service: InferenceService, summary: Mapping[str, Any] | None, gpu_memories: Sequence[int]
) -> Choice:
    """The layout of a replica. `summary`: None while the model is not known."""
    parallelism = service.parallelism
    if parallelism is None:
        return Choice(Layout(), "spec.parallelism is not set")
    if not parallelism.is_automatic:
        return Choice(given_layout(parallelism, service.gpus_per_pod), "as spec.parallelism says")
    within, reason = _within_pod(service.gpus_per_pod, summary)
    if summary is None:
        return Choice(within, reason)
    return _over_pods(service, within, reason, summary, gpu_memories)


def _within_pod(gpus: int, summary: Mapping[str, Any] | None) -> tuple[Layout, str]:
    """How the GPUs of one pod share a model."""
    if gpus <= 1:
        return Layout(), "a pod has one rank"
    if summary is None:
        # Any model has as many layers; how its heads divide is not known yet.
        return Layout(pipeline=gpus), f"{gpus} stages, for the heads of the model are not known"
    heads, kv_heads = query_heads(summary), int(summary["numKvHeads"])
    tensor = max(size for size in tensor_sizes(heads, kv_heads) if gpus % size == 0)
    words = f"tensor {tensor}, the most of {gpus} GPUs by which {heads} query and {kv_heads} key"
    return Layout(pipeline=gpus // tensor, tensor=tensor), f"{words} heads divide"


def _over_pods(
    service: InferenceService,
    within: Layout,
    reason: str,
    summary: Mapping[str, Any],
    gpu_memories: Sequence[int],
) -> Choice:
    """As few pods as hold the model; one while memory is not known, or where none would do."""
    demand, memory = measure(service, summary), _memory(service, gpu_memories)
    if memory is None:
        return Choice(within, f"{reason}; one pod, for the memory is not known")
    layout = fewest_stages(demand, within, memory)
    where = "GPU" if service.gpus_per_pod else "pod"
    if layout is None:
        return Choice(within, f"{reason}; {_nothing_fits(demand, within, where, memory)}")
    needed, has = human(needed_bytes(demand, layout)), human(memory)
    words = f"the fullest {where} then needs {needed} of its {has}"
    number = (
        "one pod holds it" if layout.pods == 1 else f"{layout.pods} pods, the fewest that hold it"
    )
    return Choice(layout, f"{reason}; {number}: {words}")


def _nothing_fits(demand: Demand, within: Layout, where: str, memory: int) -> str:
    """With the least that a stage for every layer, or nearly, would need."""
    layouts = with_more_stages(within, demand.num_layers)
    least = min((needed_bytes(demand, each) for each in layouts), default=None)
    if least is None:
        return f"more than the {demand.num_layers} layers of the model"
    needs = f"a {where} needs {human(least)} at least of {human(memory)}"
    return f"no number of pods holds the model: {needs}"


def _memory(service: InferenceService, gpu_memories: Sequence[int]) -> int | None:
    """Bytes of the smallest GPU that a rank may get, or of a pod without GPUs."""
    return min(gpu_memories, default=None) if service.gpus_per_pod else service.memory_limit
