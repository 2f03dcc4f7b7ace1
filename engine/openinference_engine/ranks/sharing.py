"""How many GPUs may share a stage of a model, and its experts: pure.

The operator knows the same rules (openinference_operator.sharing), so that a group
which breaks one is told of before a pod is made.
"""

from __future__ import annotations

from openinference_engine.config import ExpertsConfig, GroupConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.ranks.layout import listed, tensor_sizes

MOST_RANKS = 8  # kMaxRanks of csrc/tensor.h


def check_sharing(model: ModelConfig, group: GroupConfig, multiple: int) -> None:
    """Raises StartError for ranks of a stage that cannot divide heads or columns evenly.

    multiple: what columns of a matrix must be one of for the kernels, as those of the whole model
    are (`llama_weights.check_supported`).
    """
    ranks, flags = group.ranks_per_stage, sharing(group)
    if ranks > MOST_RANKS:
        raise StartError(f"{flags}: GPUs share a model by at most {MOST_RANKS}, and not {ranks}")
    heads = model.num_heads, model.num_kv_heads
    sizes = [size for size in tensor_sizes(*heads) if size <= MOST_RANKS]
    if ranks not in sizes:
        raise StartError(
            f"{flags}: {ranks} GPUs do not divide the {model.num_heads} query heads and "
            f"{model.num_kv_heads} key heads of the model; use {listed(sizes)} in all"
        )
    sizes = [size for size in sizes if not _uneven(model, size * multiple)]
    if ranks not in sizes:
        raise StartError(
            f"{flags}: {ranks} GPUs do not divide the model's {_uneven(model, ranks * multiple)} "
            f"into multiples of {multiple}; use {listed(sizes)} in all"
        )
    experts = model.experts
    if experts and group.expert not in _expert_sizes(experts, ranks, sizes, multiple):
        raise StartError(
            f"{flags} does not divide the experts' intermediate_size {experts.intermediate_size} "
            f"into multiples of {multiple}; use {_ways(experts, ranks, sizes, multiple)}"
        )


def sharing(group: GroupConfig) -> str:
    """The flags by which the ranks of a stage share a model."""
    flags = {"--tensor": group.tensor, "--expert": group.expert}
    return " and ".join(f"{flag} {size}" for flag, size in flags.items() if size > 1)


def _uneven(model: ModelConfig, multiple: int) -> str:
    """Which of the matrices that are cut by columns, output and down, have no such multiple.

    Down beside experts, too, since any layer may be without them.
    """
    widths = {
        "num_heads x head_dim": model.num_heads * model.head_dim,
        "intermediate_size": model.intermediate_size,
    }
    uneven = (f"{name} {width}" for name, width in widths.items() if width % multiple)
    return " and ".join(uneven)


def _ways(experts: ExpertsConfig, ranks: int, sizes: list[int], multiple: int) -> str:
    """As many GPUs by other flags; where there are none, which of `sizes` can."""
    if found := _expert_sizes(experts, ranks, sizes, multiple):
        return sharing(GroupConfig(tensor=ranks // found[0], expert=found[0]))
    others = (one for one in sizes if _expert_sizes(experts, one, sizes, multiple))
    return f"{listed(others)} GPUs in all"


def _expert_sizes(experts: ExpertsConfig, ranks: int, sizes: list[int], multiple: int) -> list[int]:
    """Into how many parts of whole experts so many GPUs may go, the fewest first.

    sizes: how many may cut an expert, for the heads' sake.
    """
    return [
        size
        for size in range(1, ranks + 1)
        if ranks % size == 0
        and experts.count % size == 0
        and ranks // size in sizes
        and experts.intermediate_size % (ranks // size * multiple) == 0
    ]
