"""Which layout a replica gets whose sizes the user did not choose: pure, and told in words.

The GPUs of a pod split every matrix (tensor), but for experts that would become narrow (expert),
where the heads of the model divide and the engine knows how, else fewer of them do so in each of
several stages. More pods are more stages, for over the network between them only a pipeline's small
messages should go, and there are only as many as the memory asks for: that of the smallest GPUs
that can hold a part and, with larger ones, have places for all, since the scheduler may place a pod
on any. Where none have so many places, the largest decide: nodes may be added.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from openinference_operator.demand import Demand, measure
from openinference_operator.layout import (
    Layout,
    find_misfit,
    given_layout,
    query_heads,
    with_more_stages,
)
from openinference_operator.sharing import expert_columns, find_gpu_misfit
from openinference_operator.sizing import fewest_stages, human, needed_bytes
from openinference_operator.spec import InferenceService

# A GPU is as fast with parts of so many columns as with whole experts, which do not spread evenly;
# with parts of half as many it was slower (docs/performance.md, "Mixtures of experts over several
# GPUs").
LEAST_EXPERT_COLUMNS = 384


@dataclass(frozen=True, slots=True)
class Choice:
    """A layout, and why it is that one."""

    layout: Layout
    reason: str

    def __str__(self) -> str:
        return f"{self.layout} ({self.reason})"


def choose(
    service: InferenceService,
    summary: Mapping[str, Any] | None,
    gpu_memories: Sequence[int] = (),
) -> Choice:
    """The layout of a replica. `summary`: None while the model is not known. `gpu_memories`: bytes
    of one GPU of each place for a pod, as far as nodes say.
    """
    parallelism, gpus = service.parallelism, service.gpus_per_pod
    if parallelism is None:
        return Choice(Layout(), "spec.parallelism is not set")
    if not parallelism.is_automatic:
        return Choice(given_layout(parallelism, gpus), "as spec.parallelism says")
    in_one_pod = _on_gpus(gpus, summary) if gpus else Choice(Layout(), "a pod has one rank")
    if summary is None or find_misfit(in_one_pod.layout, summary):
        return in_one_pod
    limits = () if service.memory_limit is None else (service.memory_limit,)
    memories = gpu_memories if gpus else limits
    return _over_pods(in_one_pod, measure(service, summary), memories)


def _on_gpus(gpus: int, summary: Mapping[str, Any] | None) -> Choice:
    """How the GPUs of one pod share a model: as many as can share a stage do."""
    if gpus == 1:
        return Choice(Layout(), "a pod has one GPU")
    if summary is None:
        # Any model has as many layers; how its heads divide is not known yet.
        reason = f"{gpus} stages, for the heads of the model are not known"
        return Choice(Layout(pipeline=gpus), reason)
    by_tensor = Layout(tensor=gpus)
    for_misfit = f"for {find_misfit(by_tensor, summary) or find_gpu_misfit(by_tensor, summary)}"
    for stages in (number for number in range(1, gpus) if gpus % number == 0):
        for layout, reason in _sharing(gpus // stages, summary):
            if not (find_misfit(layout, summary) or find_gpu_misfit(layout, summary)):
                words = f"{reason}; {stages} stages, {for_misfit}" if stages > 1 else reason
                return Choice(replace(layout, pipeline=stages), words)
    return Choice(Layout(pipeline=gpus), f"{gpus} stages, {for_misfit}")


def _sharing(ranks: int, summary: Mapping[str, Any]) -> Iterator[tuple[Layout, str]]:
    """How so many GPUs may share a stage, the fastest first, and why."""
    heads, kv_heads = query_heads(summary), int(summary["numKvHeads"])
    divide = f"{ranks} GPUs divide the {heads} query and {kv_heads} key heads"
    columns = expert_columns(summary) // ranks
    if 0 < columns < LEAST_EXPERT_COLUMNS:
        faster = f"whole experts are faster than parts of {columns} columns"
        yield Layout(expert=ranks), f"expert {ranks}: {faster}, and {divide}"
    yield Layout(tensor=ranks), f"tensor {ranks}: {divide}"


def _over_pods(in_one_pod: Choice, demand: Demand, memories: Sequence[int]) -> Choice:
    """As few pods as hold the model; one while memory is not known, or none would.

    `memories`: bytes of a GPU of each place, or of a pod that has none.
    """
    layout, reason = in_one_pod.layout, in_one_pod.reason
    if not memories:
        return Choice(layout, f"{reason}; one pod, for the memory is not known")
    sizes = sorted(set(memories))
    holding = [(size, wide) for size in sizes if (wide := fewest_stages(demand, layout, size))]
    if not holding:
        return Choice(layout, f"{reason}; {_nothing_fits(demand, layout, sizes[-1])}")
    together = [each for each in holding if _num_places(memories, each[0]) >= each[1].pods]
    memory, wider = together[0] if together else holding[-1]
    needed, has = human(needed_bytes(demand, wider)), human(memory)
    which = "smallest with places for all" if together else "largest"
    of_which = f"the {has} of the {which}" if len(sizes) > 1 else f"its {has}"
    words = f"the fullest {_holder(demand)} then needs {needed} of {of_which}"
    number = (
        "one pod holds it" if wider.pods == 1 else f"{wider.pods} pods, the fewest that hold it"
    )
    return Choice(wider, f"{reason}; {number}: {words}")


def _num_places(memories: Sequence[int], least: int) -> int:
    return sum(memory >= least for memory in memories)


def _nothing_fits(demand: Demand, layout: Layout, memory: int) -> str:
    """With the least that a stage for every layer, or nearly, would need."""
    layouts = with_more_stages(layout, demand.num_layers)
    least = min(needed_bytes(demand, each) for each in layouts)
    needs = f"a {_holder(demand)} needs {human(least)} at least of {human(memory)}"
    return f"no number of pods holds the model: {needs}"


def _holder(demand: Demand) -> str:
    return "GPU" if demand.is_on_gpus else "pod"
