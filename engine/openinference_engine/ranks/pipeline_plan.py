"""What each rank of a pipeline of GPUs has room for, before anything is read: pure arithmetic."""

from __future__ import annotations

from openinference_engine.backend import Capacity, model_length, plan_capacity
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.cuda_backend import plan_memory
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.errors import StartError
from openinference_engine.inputs import input_bytes
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ranks import device_memory, hops
from openinference_engine.ranks.cuda_part import SLACK_BYTES, most_rows
from openinference_engine.ranks.cuda_stage import stage_model
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.ranks.sharing import sharing


def plan_pipeline(model: ModelConfig, config: EngineConfig, free_bytes: int) -> Capacity:
    """What all stages have room for, with so many bytes each. Raises StartError if one has not."""
    stages = config.group.pipeline
    capacities = [plan_stage(model, config, stage, free_bytes) for stage in range(stages)]
    return min(capacities, key=lambda capacity: capacity.num_blocks)


def plan_stage(model: ModelConfig, config: EngineConfig, stage: int, free_bytes: int) -> Capacity:
    """Raises StartError, with the stage and what would fit, if its part of the model does not."""
    part = stage_model(model, config.group, stage)
    of_lanes = bytes_of_lanes(model, config, stage)
    spare_bytes = free_bytes - of_lanes
    try:
        spare_bytes = plan_memory(part.config, config, spare_bytes, part.extent)
        position_bytes = part.config.kv_bytes_per_token(CUDA_FORMATS[config.kv_cache_dtype])
        return plan_capacity(part.config, config, spare_bytes, spare_bytes, position_bytes)
    except StartError as error:
        raise StartError(
            f"stage {stage} of --pipeline {config.group.pipeline}, with {part.config.num_layers} "
            f"layers{_shared(config.group)} and {of_lanes / 2**20:.0f} MiB for its lanes: {error}"
        ) from None


def check_room(
    model: ModelConfig, config: EngineConfig, stage: int, free_bytes: int, verdict: Verdict
) -> None:
    """Raises StartError if this GPU has less room than rank 0's, by which the cache was planned."""
    capacity = plan_stage(model, config, stage, free_bytes + SLACK_BYTES)
    stages = config.group.pipeline
    if capacity.num_cache_blocks >= verdict.num_cache_blocks:
        return
    part = stage_model(model, config.group, stage).config
    position_bytes = part.kv_bytes_per_token(CUDA_FORMATS[config.kv_cache_dtype])
    raise StartError(
        f"stage {stage} of --pipeline {stages}: {free_bytes} bytes of its GPU are free, which hold "
        f"{capacity.num_blocks} blocks of the cache beside its layers, and rank 0 has planned "
        f"{verdict.num_cache_blocks - 1}; end what else runs there, or use --kv-cache-bytes "
        f"{capacity.num_blocks * config.block_size * position_bytes}"
    )


def shared_bytes(model: ModelConfig, config: EngineConfig, stage: int) -> int:
    """What a rank has for others to write to: the stage before, and those who share its own."""
    num_bytes = stage_layout(model, config, stage).num_bytes
    if config.group.ranks_per_stage > 1:
        num_bytes += team_layout(model, config, stage).num_bytes
    return num_bytes


def stage_layout(model: ModelConfig, config: EngineConfig, stage: int) -> hops.StageLayout:
    return hops.layout_of(model, config.group, stage, most_rows(config))


def team_layout(model: ModelConfig, config: EngineConfig, stage: int) -> device_memory.Layout:
    logit_rows = MAX_ROWS if stage == config.group.pipeline - 1 else 0
    ranks, rows = config.group.ranks_per_stage, most_rows(config)
    return device_memory.layout_of(model, ranks, rows, logit_rows)


def bytes_of_lanes(model: ModelConfig, config: EngineConfig, stage: int) -> int:
    """What a rank has beside its part of the model and the buffers of a step."""
    in_memory = shared_bytes(model, config, stage) + _outbox_bytes(model, config, stage)
    return in_memory + _more_inputs(model, config)


def _outbox_bytes(model: ModelConfig, config: EngineConfig, stage: int) -> int:
    """What stands for the memory of the next stage, where that is in another pod."""
    following = (stage + 1) % config.group.pipeline
    is_far = hops.is_far(config.group, following)
    return stage_layout(model, config, following).num_bytes if is_far else 0


def _shared(group: GroupConfig) -> str:
    return f" shared by {sharing(group)}" if group.ranks_per_stage > 1 else ""


def _more_inputs(model: ModelConfig, config: EngineConfig) -> int:
    """Bytes of the inputs of all lanes but one, which steps have everywhere."""
    pages = -(-model_length(model, config) // PAGE_TOKENS)
    return (config.group.pipeline - 1) * input_bytes(MAX_ROWS, pages, pages * PAGE_TOKENS)
