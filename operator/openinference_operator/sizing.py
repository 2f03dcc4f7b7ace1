"""How the memory of a replica is divided, and whether it suffices: pure arithmetic.

With GPUs of M bytes, and a rank on each, which holds W bytes of weights and S bytes of keys and
values of a sequence of full length (`demand` tells both for the fullest rank of every stage):

    keys and values = M x 0.92 - 1.5 GiB - X - C - W
    sequences       = keys and values / S, of the rank with room for the fewest

0.92 leaves what the driver and fragmentation take, 1.5 GiB what activations and graphs take; both
are on the safe side. X is what tensor ranks write to each other, C what prompts read instead of
codes of keys and values. Without GPUs the memory limit of a pod takes the place of M for all ranks
in it, and the engine gives a tenth of it to keys and values
(`openinference_engine.backend.plan_capacity`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openinference_operator.activations import find_activations_misfit
from openinference_operator.demand import Demand, measure
from openinference_operator.layout import (
    Layout,
    find_misfit,
    with_more_stages,
)
from openinference_operator.reasons import Reason
from openinference_operator.sharing import find_gpu_misfit
from openinference_operator.spec import InferenceService

USABLE_PERCENT = 92
WORKSPACE_BYTES = 3 << 29


@dataclass(frozen=True, slots=True)
class Sizing:
    """One replica; bytes of its fullest GPU, or of its fullest pod where it has none.

    `kv_per_gpu` and `max_concurrency` are None while the memory is not known. `problem`: why it
    cannot run, with the arithmetic and what would fit; empty if it can. `reason`: of that.
    """

    pods: int
    gpus_per_pod: int
    weights_per_gpu: int
    kv_per_gpu: int | None = None
    max_concurrency: int | None = None
    problem: str = ""
    reason: Reason = Reason.MODEL_TOO_LARGE

    @property
    def is_misfit(self) -> bool:
        """It cannot run, however much memory there were."""
        return bool(self.problem) and self.reason is not Reason.MODEL_TOO_LARGE

    @property
    def gpus(self) -> int:
        """Of the replica."""
        return self.pods * self.gpus_per_pod


def size(
    service: InferenceService,
    layout: Layout,
    summary: Mapping[str, Any],
    gpu_memories: Sequence[int],
) -> Sizing:
    """Divide the memory of a replica. `gpu_memories`: of one GPU of each place for a pod."""
    for reason, misfit in _misfits(service, layout, summary):
        if misfit:
            ranks = layout.ranks_per_pod if service.gpus_per_pod else 0
            return Sizing(layout.pods, ranks, 0, problem=misfit, reason=reason)
    demand = measure(service, summary)
    if service.gpus_per_pod:
        return _size_gpus(demand, layout, gpu_memories)
    return _size_cpu(demand, layout, service.memory_limit)


def _misfits(
    service: InferenceService, layout: Layout, summary: Mapping[str, Any]
) -> Iterator[tuple[Reason, str]]:
    yield Reason.PARALLELISM_MISFIT, find_misfit(layout, summary)
    if service.gpus_per_pod:
        yield Reason.PARALLELISM_MISFIT, find_gpu_misfit(layout, summary)
        chosen = service.engine.activations
        yield Reason.ACTIVATIONS_MISFIT, find_activations_misfit(chosen, layout, summary)


def needed_bytes(demand: Demand, layout: Layout) -> int:
    """What the fullest GPU must have for one sequence, or the fullest pod where it has none."""
    used = max(load.total for load in demand.loads(layout))
    if not demand.is_on_gpus:
        return layout.ranks_per_pod * used
    return -(-(used + workspace_bytes(demand, layout)) * 100 // USABLE_PERCENT)


def workspace_bytes(demand: Demand, layout: Layout) -> int:
    """Of a GPU, beside weights, keys and values."""
    return WORKSPACE_BYTES + demand.exchange(layout) + demand.copy_of(layout)


def fewest_stages(demand: Demand, layout: Layout, memory: int) -> Layout | None:
    """The layout with as few stages more as fit into memory; None if no number of them does."""
    wider = with_more_stages(layout, demand.num_layers)
    return next((each for each in wider if needed_bytes(demand, each) <= memory), None)


def human(count: int) -> str:
    """Bytes as people write them: 65.5 GB."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"


def _size_gpus(demand: Demand, layout: Layout, gpu_memories: Sequence[int]) -> Sizing:
    loads, places = demand.loads(layout), (layout.pods, layout.ranks_per_pod)
    if not gpu_memories:
        return Sizing(*places, max(loads, key=lambda load: load.total).weights)
    smallest, largest = min(gpu_memories), max(gpu_memories)
    room = _room(smallest, workspace_bytes(demand, layout))
    fullest = min(loads, key=lambda load: ((room - load.weights) // load.sequence, -load.weights))
    kv = max(0, room - fullest.weights)
    fits = needed_bytes(demand, layout) <= largest
    problem = "" if fits else _gpu_problem(demand, layout, largest)
    return Sizing(*places, fullest.weights, kv, kv // fullest.sequence, problem)


def _room(memory: int, workspace: int) -> int:
    """Bytes of a GPU for weights, keys and values."""
    return memory * USABLE_PERCENT // 100 - workspace


def _gpu_problem(demand: Demand, layout: Layout, memory: int) -> str:
    gpus = layout.num_ranks
    who = "the GPU of a replica" if gpus == 1 else f"the fullest of the {gpus} GPUs of a replica"
    return (
        f"{who} needs {human(needed_bytes(demand, layout))}: {_shares(demand, layout, 1)},"
        f" {human(workspace_bytes(demand, layout))} to work in, and"
        f" {100 - USABLE_PERCENT} % that cannot be used. The largest GPU of a node that fits has"
        f" {human(memory)}. {_what_fits(demand, layout, memory)}"
    )


def _shares(demand: Demand, layout: Layout, ranks: int) -> str:
    """What so many of the fullest rank hold."""
    fullest = max(demand.loads(layout), key=lambda load: load.total)
    weights, sequence = human(ranks * fullest.weights), human(ranks * fullest.sequence)
    of_all = f" of {human(demand.weights)}" if layout.num_ranks > ranks else ""
    return (
        f"{weights}{of_all} of weights, {sequence} of keys and values for one sequence of"
        f" {demand.sequence_tokens} tokens"
    )


def _what_fits(demand: Demand, layout: Layout, memory: int) -> str:
    fits = [f"GPUs of {human(needed_bytes(demand, layout))}"]
    if wider := fewest_stages(demand, layout, memory):
        fits.append(f"parallelism.pipeline: {wider.pipeline} in {wider.pods} pods")
    room = _room(memory, workspace_bytes(demand, layout))
    tokens = min(
        (room - load.weights) * demand.sequence_tokens // load.sequence
        for load in demand.loads(layout)
    )
    if tokens >= 16:
        fits.append(f"engine.maxModelLen: {tokens}")
    return f"What would fit: {', or '.join(fits)}"


def _size_cpu(demand: Demand, layout: Layout, limit: int | None) -> Sizing:
    ranks = layout.ranks_per_pod
    fullest = max(demand.loads(layout), key=lambda load: load.total)
    weights = ranks * fullest.weights
    if limit is None:
        return Sizing(layout.pods, 0, weights)
    sequence = ranks * max(load.sequence for load in demand.loads(layout))
    kv = max(limit // 10, sequence)
    fits = needed_bytes(demand, layout) <= limit
    problem = "" if fits else _cpu_problem(demand, layout, limit)
    return Sizing(layout.pods, 0, weights, kv, kv // sequence, problem)


def _cpu_problem(demand: Demand, layout: Layout, limit: int) -> str:
    needed = human(needed_bytes(demand, layout))
    who = "a pod" if layout.pods == 1 else f"the fullest of the {layout.pods} pods of a replica"
    fits = f"a limit above {needed}, with room for the engine itself"
    if wider := fewest_stages(demand, layout, limit):
        fits += f", or parallelism.pipeline: {wider.pipeline}"
    return (
        f"{who} needs {needed}: {_shares(demand, layout, layout.ranks_per_pod)};"
        f" resources.limits.memory is {human(limit)}. What would fit: {fits}"
    )
