"""The weights of a mixture of experts as the CUDA kernels read them: one tensor for all experts.

Experts are loaded and packed one after another, so a layer needs room for two of them beside what
is kept. The router stays in bfloat16: it is small, and a wrong choice costs more than a wrong sum.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from openinference_engine import tiles
from openinference_engine.config import ExpertsConfig, WeightFormat
from openinference_engine.errors import StartError
from openinference_engine.weights.loader import Weights
from openinference_engine.weights.stack import Stack
from openinference_engine.weights.upload import Upload

_MOST_EXPERTS, _MOST_CHOSEN = 256, 16  # csrc/cuda/visits.cuh


def load_experts(
    weights: Weights,
    hidden: int,
    config: ExpertsConfig,
    weight_format: WeightFormat,
    upload: Upload,
) -> dict[str, Tensor]:
    """router (E in whole tiles, H); gate_up (O, 2·I, H), gate first, and down (O, H, I), or packed.

    `weights`: of the block of experts, of which O are this rank's own.
    """
    router = weights.tensor("gate.weight", (config.count, hidden)).to(upload.device)
    orders, experts = expert_orders(hidden, config), weights.at("experts")
    begun = (
        _begin_expert(experts.at(str(number)), hidden, config, weight_format, orders, upload)
        for number in config.own
    )
    wholes: list[Tensor] = []
    for index, parts in enumerate(upload.in_turn(begun)):
        wholes = wholes or [part.new_empty(len(config.own), *part.shape) for part in parts]
        for whole, part in zip(wholes, parts, strict=True):
            if part.shape != whole.shape[1:]:
                raise StartError(
                    f"{experts.prefix}{config.own[index]} is stored in another format of four bits "
                    "than the experts before it, which the CUDA kernels do not know; use "
                    "--device cpu"
                )
            whole[index] = part
    gate_up, down = wholes
    return {"router": tiles.pad_rows(router), "gate_up": gate_up, "down": down}


def expert_orders(hidden: int, config: ExpertsConfig) -> tuple[Tensor, Tensor]:
    """In which order (tiles.py) the rows of one expert's packed matrices lie."""
    gate_up = tiles.gate_up_order(2 * config.intermediate_size)
    return gate_up, tiles.plain_order(hidden)


def router_elements(hidden: int, config: ExpertsConfig) -> int:
    """In bfloat16, with the rows that fill its last tile."""
    return -(-config.count // tiles.TILE_ROWS) * tiles.TILE_ROWS * hidden


def expert_elements(hidden: int, config: ExpertsConfig) -> int:
    """Elements of one expert's matrices."""
    return 3 * hidden * config.intermediate_size


def check_experts(config: ExpertsConfig) -> None:
    """Raises StartError for more experts than the kernels know."""
    if config.count > _MOST_EXPERTS or config.per_token > _MOST_CHOSEN:
        raise StartError(
            f"the model has {config.count} experts, {config.per_token} for each token: the CUDA "
            f"kernels know at most {_MOST_EXPERTS}, {_MOST_CHOSEN} for each; use --device cpu"
        )


def _begin_expert(
    weights: Weights,
    hidden: int,
    config: ExpertsConfig,
    weight_format: WeightFormat,
    orders: tuple[Tensor, Tensor],
    upload: Upload,
) -> Callable[[], tuple[Tensor, ...]]:
    inner = config.intermediate_size
    stacks = (
        Stack(weights, {"gate_proj": inner, "up_proj": inner}, hidden, upload),
        Stack(weights, {"down_proj": hidden}, inner, upload),
    )
    return lambda: tuple(
        stack.packed(weight_format, order) for stack, order in zip(stacks, orders, strict=True)
    )
