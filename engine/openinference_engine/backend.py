"""What computes an engine's steps: a model, its cache and kernels, on one kind of device.

Loads them and says how many positions there is room for. A CPU keeps weights as they are stored; a
GPU has its own formats and kernels (`cuda_backend`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CODED_ELEMENTS, CPU_FORMATS, CacheFormat
from openinference_engine.layers.attention import KVCache
from openinference_engine.limits import memory_limit_bytes
from openinference_engine.models.registry import build_model
from openinference_engine.ops import KERNEL_PATH
from openinference_engine.results import StepResult
from openinference_engine.runner import TORCH_DTYPES, Runner
from openinference_engine.speed import SpeedMeter
from openinference_engine.step import Step
from openinference_engine.timeline import Timeline
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.loader import Weights

CPU_PATHS = dict.fromkeys(("products", "prompts", "attention"), KERNEL_PATH) | {"drawing": "host"}
log = logging.getLogger("openinference.core")


class StepRunner(Protocol):
    def run(self, step: Step) -> StepResult:
        """Computes all chunks, draws a token where one is due and rates what is to be rated."""

    def warm_up(self, max_rows: int) -> None:
        """Pays one-time costs of steps over up to as many tokens."""


class RankGroup(StepRunner, Protocol):
    """Many ranks that run steps together, in stages that each may have a step of their own."""

    num_stages: int

    def begin(self, step: Step) -> None: ...

    def finish(self) -> StepResult:
        """Of the oldest step that was begun."""

    def is_leaving(self) -> bool:
        """Whether a pod of the group was told to terminate since the last look."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """`num_blocks` are shared by sequences; the cache has one more, which no sequence gets."""

    max_model_len: int
    num_blocks: int

    @property
    def probe_block(self) -> int:
        """The cache's last block, for steps of the engine's own."""
        return self.num_blocks

    @property
    def num_cache_blocks(self) -> int:
        return self.num_blocks + 1


@dataclass(frozen=True, slots=True)
class Backend:
    """kernel_path: part of the resume key, because other kernels may draw another token.
    paths: kind of op → which kernels compute it, for log and metrics.
    """

    runner: StepRunner
    capacity: Capacity
    kernel_path: str
    paths: dict[str, str]
    runs_ahead: bool = False  # the runner gains by blocks that sequences get early
    group: RankGroup | None = None  # the runner, if it is one


def load_backend(
    checkpoint: Checkpoint, config: EngineConfig, speed: SpeedMeter, timeline: Timeline
) -> Backend:
    """Loads the model. Raises StartError if it does not fit or a tensor is missing.

    speed: what steps take, as far as it is known. timeline: gets the stages of loading.
    """
    if config.device == "cuda":
        if config.group.num_ranks > 1:
            from openinference_engine.ranks.cuda_group import load_cuda_group

            backend = load_cuda_group(checkpoint, config, speed)
            timeline.end("load")
            return backend
        from openinference_engine.cuda_backend import load_cuda_backend

        return load_cuda_backend(checkpoint, config, timeline)
    if config.weights != "auto":
        raise StartError(
            f"--weights {config.weights} is for --device cuda; a CPU keeps them as they are stored"
        )
    if config.activations != "auto":
        raise StartError(
            f"--activations {config.activations} is for --device cuda; a CPU multiplies int8 codes "
            "where weights are stored as codes, unless --dtype says otherwise"
        )
    if config.group.num_ranks > 1:
        from openinference_engine.ranks.leader import load_group_backend

        backend = load_group_backend(checkpoint, config, speed)
    else:
        backend = _load_cpu_backend(checkpoint, config)
    timeline.end("load")
    return backend


@contextmanager
def telling_lack_of_memory() -> Iterator[None]:
    """Of a GPU, which plans do not foresee: another process took it meanwhile, say."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition("\n")[0]
        raise StartError(
            f"the GPU's memory ran out while the model was loaded: {reason}; end what else runs "
            "there, or give the cache less by --kv-cache-bytes"
        ) from error


def _load_cpu_backend(checkpoint: Checkpoint, config: EngineConfig) -> Backend:
    model_config = checkpoint.config
    limit = memory_limit_bytes()
    cache_format = choose_cache_format(model_config, config)
    position_bytes = model_config.kv_bytes_per_token(cache_format)
    capacity = plan_capacity(model_config, config, limit, limit // 10, position_bytes)
    if KERNEL_PATH != "cpu":
        remedy = "install a C++ compiler, then OpenInference again with OPENINFERENCE_NATIVE=cpu"
        log.warning("no CPU kernels: torch computes", extra={"fields": {"remedy": remedy}})
    weights = Weights(checkpoint, TORCH_DTYPES[config.dtype], keeps_format=config.dtype == "auto")
    model = build_model(weights, model_config, capacity.max_model_len)
    cache = KVCache(model_config, capacity.num_cache_blocks, config.block_size, cache_format)
    return Backend(Runner(model, cache, config.block_size), capacity, KERNEL_PATH, CPU_PATHS)


def choose_cache_format(model: ModelConfig, config: EngineConfig) -> CacheFormat:
    """How a CPU keeps keys and values. Raises StartError if the model's heads cannot be so."""
    cache_format = CPU_FORMATS[config.kv_cache_dtype]
    if cache_format.is_coded and model.head_dim % CODED_ELEMENTS:
        raise StartError(
            f"--kv-cache-dtype {config.kv_cache_dtype} needs heads of a multiple of "
            f"{CODED_ELEMENTS} elements, and the model's have {model.head_dim}; use auto"
        )
    return cache_format


def plan_capacity(
    model: ModelConfig,
    config: EngineConfig,
    total_bytes: int,
    spare_bytes: int,
    position_bytes: int,
) -> Capacity:
    """Context length and number of cache blocks. Raises StartError if one sequence cannot fit.

    spare_bytes: of `total_bytes`, what the cache takes where nobody said how much, if one sequence
    does not need more. position_bytes: keys and values of a token in all layers.
    """
    max_model_len = model_length(model, config)
    blocks_per_sequence = -(-max_model_len // config.block_size)
    block_bytes = position_bytes * config.block_size
    wanted = blocks_per_sequence * config.max_sequences
    if config.kv_cache_bytes is None:
        if blocks_per_sequence * block_bytes > total_bytes:
            raise StartError(
                f"one sequence of {max_model_len} tokens needs {blocks_per_sequence * block_bytes} "
                f"bytes of cache, and there are {total_bytes} in all; set --max-model-len, or keep "
                "keys and values in fewer bits by --kv-cache-dtype"
            )
        affordable = max(spare_bytes // block_bytes, blocks_per_sequence)
    else:
        affordable = config.kv_cache_bytes // block_bytes
    if affordable < blocks_per_sequence:
        raise StartError(
            f"--kv-cache-bytes {config.kv_cache_bytes} holds {affordable * config.block_size} "
            f"tokens; lower --max-model-len {max_model_len} or give "
            f"{blocks_per_sequence * block_bytes} bytes"
        )
    num_blocks = min(wanted, affordable)
    if config.kv_cache_bytes is not None and num_blocks * block_bytes > total_bytes:
        raise StartError(
            f"--kv-cache-bytes {config.kv_cache_bytes} is more than the {total_bytes} bytes that "
            f"there are for it; leave it out, or use at most {total_bytes}"
        )
    return Capacity(max_model_len, num_blocks)


def model_length(model: ModelConfig, config: EngineConfig) -> int:
    """Positions a sequence may have. Raises StartError for more than the model knows."""
    max_model_len = config.max_model_len or model.max_positions
    if not 1 <= max_model_len <= model.max_positions:
        raise StartError(
            f"--max-model-len {max_model_len} is outside what the model was trained for; "
            f"use 1 to {model.max_positions}"
        )
    return max_model_len
