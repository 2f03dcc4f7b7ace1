"""What must be the same on all ranks of a group, and what is said where it is not."""

from __future__ import annotations

import platform

import msgspec

from openinference_engine.config import EngineConfig
from openinference_engine.ops import KERNEL_PATH
from openinference_engine.version import VERSION
from openinference_engine.weights.checkpoint import Checkpoint

Facts = dict[str, str]


def facts_of(checkpoint: Checkpoint, config: EngineConfig) -> Facts:
    """What must be the same on all ranks, by the name that a refusal gives it."""
    flags = msgspec.to_builtins(config)
    group = flags.pop("group")
    flags |= {name: group[name] for name in ("pipeline", "tensor", "expert", "pods")}
    del flags["model_uri"]  # one pod may find the same weights elsewhere
    return {
        "version": VERSION,
        "image": config.group.image,
        "weights": checkpoint.fingerprint,
        "kernels": _kernels(config),
        "machine": platform.machine(),
        **{f"setting {name}": str(value) for name, value in flags.items()},
    }


def _kernels(config: EngineConfig) -> str:
    if config.device == "cpu":
        return KERNEL_PATH
    from openinference_engine.cuda_backend import find_gpu
    from openinference_engine.cuda_paths import kernel_path

    return kernel_path(find_gpu(), config)


def difference(own: Facts, other: Facts) -> str | None:
    """In words that follow the name of the other rank."""
    for name in own | other:
        if own.get(name) != other.get(name):
            return f"has {name} {other.get(name)!r}, rank 0 has {own.get(name)!r}"
    return None
