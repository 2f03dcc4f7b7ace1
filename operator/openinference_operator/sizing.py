"""How the memory of a replica is divided, and whether it suffices: pure arithmetic.

With G GPUs of M bytes, W bytes of weights, K key and value bytes per token, T tokens per sequence:

    weights per GPU = W / G                       (tensor parallel: every matrix is split)
    kv per token    = K / min(G, kv heads)        (a head is not split)
    kv per GPU      = M x 0.92 - 1.5 GiB - weights per GPU
    sequences       = kv per GPU / (kv per token x T)

0.92 leaves what the driver and fragmentation take, 1.5 GiB what activations and graphs take; both
are on the safe side. Without GPUs the pod's memory limit takes the place of M, and the engine gives
a tenth of it to keys and values (`openinference_engine.engine.plan_capacity`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openinference_operator.fields import parse_quantity
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

GPU_RESOURCE = "nvidia.com/gpu"
GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # in MiB
USABLE_PERCENT = 92
WORKSPACE_BYTES = 3 << 29
ELEMENT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
# What a summary of a model must say, each a whole number above zero.
SIZES = ("parameters", "weightBytes", "numLayers", "numKvHeads", "headDim", "maxPositions")


@dataclass(frozen=True, slots=True)
class Sizing:
    """One replica. `kv_per_gpu` and `max_concurrency` are None while the memory is not known.

    `problem`: why it cannot run, with the arithmetic and what would fit; empty if it can.
    """

    gpus: int
    weights_per_gpu: int
    kv_per_gpu: int | None
    max_concurrency: int | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model asks of memory. Bytes; `sequence_tokens`: of the longest sequence."""

    weight_bytes: int
    kv_bytes_per_token: int
    num_kv_heads: int
    sequence_tokens: int

    def weights_per_gpu(self, gpus: int) -> int:
        """Bytes of weights on each of so many GPUs."""
        return -(-self.weight_bytes // gpus)

    def sequence_per_gpu(self, gpus: int) -> int:
        """Bytes of keys and values of one longest sequence on each of so many GPUs."""
        return self.sequence_tokens * -(-self.kv_bytes_per_token // min(gpus, self.num_kv_heads))

    def needed_per_gpu(self, gpus: int) -> int:
        """Bytes that a GPU must have for one sequence."""
        used = self.weights_per_gpu(gpus) + self.sequence_per_gpu(gpus) + WORKSPACE_BYTES
        return -(-used * 100 // USABLE_PERCENT)


def size(
    service: InferenceService, summary: Mapping[str, Any], gpu_memories: Sequence[int]
) -> Sizing:
    """Divide the memory of a replica. `gpu_memories`: bytes of one GPU of each node that fits."""
    gpus = gpus_per_replica(service)
    if gpus:
        return _size_gpus(measure(service, summary, 2), gpus, gpu_memories)
    return _size_cpu(measure(service, summary, 4), service)


def gpu_memories(service: InferenceService, nodes: Iterable[Object]) -> tuple[int, ...]:
    """Bytes of one GPU of every node that could hold a replica, as GPU feature discovery says."""
    gpus, selector = gpus_per_replica(service), service.pod_template.node_selector
    found = []
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        allocatable = (node.get("status") or {}).get("allocatable") or {}
        mebibytes = str(labels.get(GPU_MEMORY_LABEL, ""))
        is_chosen = all(labels.get(name) == value for name, value in selector.items())
        if is_chosen and mebibytes.isdigit() and _quantity(allocatable, GPU_RESOURCE) >= gpus:
            found.append(int(mebibytes) << 20)
    return tuple(sorted(found))


def gpus_per_replica(service: InferenceService) -> int:
    """GPUs that the pods of one replica ask for."""
    return _quantity(service.limits, GPU_RESOURCE) or _quantity(service.requests, GPU_RESOURCE)


def measure(service: InferenceService, summary: Mapping[str, Any], kv_element_bytes: int) -> Demand:
    """What a model asks of memory under the spec's options."""
    element = ELEMENT_BYTES.get(service.engine.dtype or "")
    heads = int(summary["numKvHeads"])
    elements_per_token = 2 * int(summary["numLayers"]) * heads * int(summary["headDim"])
    return Demand(
        weight_bytes=int(summary["parameters"]) * element
        if element
        else int(summary["weightBytes"]),
        kv_bytes_per_token=elements_per_token * kv_element_bytes,
        num_kv_heads=heads,
        sequence_tokens=service.engine.max_model_len or int(summary["maxPositions"]),
    )


def human(count: int) -> str:
    """Bytes as people write them: 65.5 GB."""
    number, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if number < 1000:
            break
        number, unit = number / 1000, larger
    return f"{number:.1f} {unit}" if unit != "B" else f"{count} B"


def _size_gpus(demand: Demand, gpus: int, gpu_memories: Sequence[int]) -> Sizing:
    weights = demand.weights_per_gpu(gpus)
    if not gpu_memories:
        return Sizing(gpus, weights, None, None)
    smallest, largest = min(gpu_memories), max(gpu_memories)
    kv = max(0, smallest * USABLE_PERCENT // 100 - WORKSPACE_BYTES - weights)
    problem = _gpu_problem(demand, gpus, largest) if demand.needed_per_gpu(gpus) > largest else ""
    return Sizing(gpus, weights, kv, kv // demand.sequence_per_gpu(gpus), problem)


def _gpu_problem(demand: Demand, gpus: int, memory: int) -> str:
    weights = f"{human(demand.weight_bytes)} of weights"
    if gpus > 1:
        weights += f" / {gpus} = {human(demand.weights_per_gpu(gpus))}"
    return (
        f"each of {gpus} GPUs of a replica needs {human(demand.needed_per_gpu(gpus))}: {weights},"
        f" {_one_sequence(demand, gpus)}, {human(WORKSPACE_BYTES)} to work in, and"
        f" {100 - USABLE_PERCENT} % that cannot be used. The largest GPU of a node that fits has"
        f" {human(memory)}. {_what_fits(demand, gpus, memory)}"
    ).replace("each of 1 GPUs", "the GPU")


def _one_sequence(demand: Demand, gpus: int) -> str:
    needed = human(demand.sequence_per_gpu(gpus))
    return f"{needed} of keys and values for one sequence of {demand.sequence_tokens} tokens"


def _what_fits(demand: Demand, gpus: int, memory: int) -> str:
    fits = [f"GPUs of {human(demand.needed_per_gpu(gpus))}"]
    counts = [count for count in GPU_COUNTS if demand.needed_per_gpu(count) <= memory]
    if counts:
        fits.insert(0, f"resources.limits {GPU_RESOURCE}: {counts[0]}")
    room = memory * USABLE_PERCENT // 100 - WORKSPACE_BYTES - demand.weights_per_gpu(gpus)
    tokens = room * demand.sequence_tokens // demand.sequence_per_gpu(gpus)
    if tokens >= 16:
        fits.append(f"engine.maxModelLen: {tokens}")
    return f"What would fit: {', or '.join(fits)}"


def _quantity(amounts: Mapping[str, str], resource: str) -> int:
    return int(parse_quantity(amounts.get(resource, "0")) or 0)


def _size_cpu(demand: Demand, service: InferenceService) -> Sizing:
    limit = parse_quantity(service.limits.get("memory", ""))
    if limit is None:
        return Sizing(0, demand.weight_bytes, None, None)
    memory, sequence = int(limit), demand.sequence_per_gpu(1)
    kv = max(memory // 10, sequence)
    return Sizing(
        0, demand.weight_bytes, kv, kv // sequence, _cpu_problem(demand, memory, sequence)
    )


def _cpu_problem(demand: Demand, memory: int, sequence: int) -> str:
    needed = demand.weight_bytes + sequence
    if needed <= memory:
        return ""
    return (
        f"a pod needs {human(needed)}: {human(demand.weight_bytes)} of weights and"
        f" {_one_sequence(demand, 1)}; resources.limits.memory is {human(memory)}."
        f" What would fit: a limit above {human(needed)}, with room for the engine itself"
    )
