"""How the memory of a replica is divided, and whether it suffices: pure arithmetic.

With GPUs of M bytes, W bytes of weights (E of them of experts), K key and value bytes per token,
T tokens per sequence, and a layout of pipeline x tensor x expert ranks, one on each GPU:

    weights per GPU = ((W - E) + E / expert) / (pipeline x tensor)  (only experts are spread so)
    kv per token    = K / pipeline / min(tensor, kv heads)          (a head is not split)
    kv per GPU      = M x 0.92 - 1.5 GiB - weights per GPU
    sequences       = kv per GPU / (kv per token x T)

0.92 leaves what the driver and fragmentation take, 1.5 GiB what activations and graphs take; both
are on the safe side. Without GPUs the memory limit of a pod takes the place of M for all ranks in
it, and the engine gives a tenth of it to keys and values
(`openinference_engine.engine.plan_capacity`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openinference_operator.fields import parse_quantity
from openinference_operator.layout import Layout, find_misfit
from openinference_operator.parallelism_spec import GPU_RESOURCE
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # in MiB
USABLE_PERCENT = 92
WORKSPACE_BYTES = 3 << 29
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# engine.kvCacheDtype: bits of an element of a key and of a value, and bytes of scales and minima
# beside both (openinference_engine.kv_formats). A CPU computes in float32.
CACHE_BITS = {"fp8": (8, 8, 4), "int8": (8, 8, 4), "int8-int4": (8, 4, 6), "int4": (4, 4, 8)}
FLOAT32_BITS, BFLOAT16_BITS = (32, 32, 0), (16, 16, 0)
# What a summary of a model must say, each a whole number above zero.
SIZES = ("parameters", "weightBytes", "numLayers", "numKvHeads", "headDim", "maxPositions")


@dataclass(frozen=True, slots=True)
class Sizing:
    """One replica. `kv_per_gpu` and `max_concurrency` are None while the memory is not known.

    `problem`: why it cannot run, with the arithmetic and what would fit; empty if it can.
    `is_misfit`: that is because its parallelism does not divide the model.
    """

    gpus: int
    weights_per_gpu: int
    kv_per_gpu: int | None
    max_concurrency: int | None
    problem: str = ""
    is_misfit: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of memory. Bytes; `sequence_tokens`: of the longest sequence."""

    weight_bytes: int
    expert_bytes: int
    kv_bytes_per_token: int
    num_kv_heads: int
    sequence_tokens: int

    def weights_per_rank(self, layout: Layout) -> int:
        """Bytes of weights of each rank; every rank of a layer has what is not of experts."""
        own = self.weight_bytes - self.expert_bytes + -(-self.expert_bytes // layout.expert)
        return -(-own // (layout.pipeline * layout.tensor))

    def sequence_per_rank(self, layout: Layout) -> int:
        """Bytes of keys and values of one longest sequence in each rank."""
        parts = layout.pipeline * min(layout.tensor, self.num_kv_heads)
        return self.sequence_tokens * -(-self.kv_bytes_per_token // parts)

    def needed_per_gpu(self, layout: Layout) -> int:
        """Bytes that a GPU must have for one sequence."""
        used = self.weights_per_rank(layout) + self.sequence_per_rank(layout) + WORKSPACE_BYTES
        return -(-used * 100 // USABLE_PERCENT)

    def needed_per_pod(self, layout: Layout) -> int:
        """Bytes that a pod without GPUs must have for one sequence."""
        used = self.weights_per_rank(layout) + self.sequence_per_rank(layout)
        return layout.ranks_per_pod * used


def size(
    service: InferenceService,
    layout: Layout,
    summary: Mapping[str, Any],
    gpu_memories: Sequence[int],
) -> Sizing:
    """Divide the memory of a replica. `gpu_memories`: bytes of one GPU of each node that fits."""
    if misfit := find_misfit(layout, summary):
        ranks = layout.num_ranks if service.gpus_per_pod else 0
        return Sizing(ranks, 0, None, None, misfit, is_misfit=True)
    demand = measure(service, summary)
    if service.gpus_per_pod:
        return _size_gpus(demand, layout, gpu_memories)
    return _size_cpu(demand, layout, service)


def gpu_memories(service: InferenceService, nodes: Iterable[Object]) -> tuple[int, ...]:
    """Bytes of one GPU of every node that could hold a replica, as GPU feature discovery says."""
    gpus, selector = service.gpus_per_pod, service.pod_template.node_selector
    found = []
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        mebibytes = str(labels.get(GPU_MEMORY_LABEL, ""))
        is_chosen = all(labels.get(name) == value for name, value in selector.items())
        if is_chosen and mebibytes.isdigit() and _quantity(allocatable, GPU_RESOURCE) >= gpus:
            found.append(int(mebibytes) << 20)
    return tuple(sorted(found))


def measure(service: InferenceService, summary: Mapping[str, Any]) -> Demand:
    """What a model asks of memory under the spec's options."""
    element = ELEMENT_BYTES.get(service.engine.dtype or "")
    heads, layers = int(summary["numKvHeads"]), int(summary["numLayers"])
    parameters = int(summary["parameters"])
    weights = parameters * element if element else int(summary["weightBytes"])
    return Demand(
        weight_bytes=weights,
        expert_bytes=weights * int(summary.get("expertParameters", 0)) // parameters,
        kv_bytes_per_token=layers * heads * _head_bytes(service, int(summary["headDim"])),
        num_kv_heads=heads,
        sequence_tokens=service.engine.max_model_len or int(summary["maxPositions"]),
    )


def _head_bytes(service: InferenceService, head_dim: int) -> int:
    """Of the key and the value of one head and token."""
    plain = BFLOAT16_BITS if service.gpus_per_pod else FLOAT32_BITS
    key, value, beside = CACHE_BITS.get(service.engine.kv_cache_dtype or "", plain)
    return head_dim * (key + value) // 8 + beside


def human(count: int) -> str:
    """Bytes as people write them: 65.5 GB."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"


def _size_gpus(demand: Demand, layout: Layout, gpu_memories: Sequence[int]) -> Sizing:
    gpus, weights = layout.num_ranks, demand.weights_per_rank(layout)
    if not gpu_memories:
        return Sizing(gpus, weights, None, None)
    smallest, largest = min(gpu_memories), max(gpu_memories)
    kv = max(0, smallest * USABLE_PERCENT // 100 - WORKSPACE_BYTES - weights)
    fits = demand.needed_per_gpu(layout) <= largest
    problem = "" if fits else _gpu_problem(demand, layout, largest)
    return Sizing(gpus, weights, kv, kv // demand.sequence_per_rank(layout), problem)


def _gpu_problem(demand: Demand, layout: Layout, memory: int) -> str:
    gpus = layout.num_ranks
    weights = f"{human(demand.weight_bytes)} of weights"
    if gpus > 1:
        weights += f" / {gpus} = {human(demand.weights_per_rank(layout))}"
    return (
        f"each of {gpus} GPUs of a replica needs {human(demand.needed_per_gpu(layout))}: {weights},"
        f" {_one_sequence(demand, layout)}, {human(WORKSPACE_BYTES)} to work in, and"
        f" {100 - USABLE_PERCENT} % that cannot be used. The largest GPU of a node that fits has"
        f" {human(memory)}. {_what_fits(demand, layout, memory)}"
    ).replace("each of 1 GPUs", "the GPU")


def _one_sequence(demand: Demand, layout: Layout) -> str:
    needed = human(demand.sequence_per_rank(layout))
    return f"{needed} of keys and values for one sequence of {demand.sequence_tokens} tokens"


def _what_fits(demand: Demand, layout: Layout, memory: int) -> str:
    """More GPUs are not advised: the engine computes with one of a pod as yet."""
    fits = [f"GPUs of {human(demand.needed_per_gpu(layout))}"]
    room = memory * USABLE_PERCENT // 100 - WORKSPACE_BYTES - demand.weights_per_rank(layout)
    tokens = room * demand.sequence_tokens // demand.sequence_per_rank(layout)
    if tokens >= 16:
        fits.append(f"engine.maxModelLen: {tokens}")
    return f"What would fit: {', or '.join(fits)}"


def _quantity(amounts: Mapping[str, str], resource: str) -> int:
    return int(parse_quantity(amounts.get(resource, "0")) or 0)


def _size_cpu(demand: Demand, layout: Layout, service: InferenceService) -> Sizing:
    limit = service.memory_limit
    weights = layout.ranks_per_pod * demand.weights_per_rank(layout)
    if limit is None:
        return Sizing(0, weights, None, None)
    sequence = layout.ranks_per_pod * demand.sequence_per_rank(layout)
    kv = max(limit // 10, sequence)
    needed = demand.needed_per_pod(layout)
    problem = "" if needed <= limit else _cpu_problem(demand, layout, needed, limit)
    return Sizing(0, weights, kv, kv // sequence, problem)


def _cpu_problem(demand: Demand, layout: Layout, needed: int, limit: int) -> str:
    weights = human(layout.ranks_per_pod * demand.weights_per_rank(layout))
    return (
        f"a pod needs {human(needed)}: {weights} of weights and"
        f" {_one_sequence(demand, layout)}; resources.limits.memory is {human(limit)}."
        f" What would fit: a limit above {human(needed)}, with room for the engine itself"
    )
