"""What a rank with a GPU loads: its part of the model and of the cache, its kernels' team."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import ModuleType

from msgspec.structs import replace

from openinference_engine.backend import Capacity, plan_capacity
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.cuda_backend import check_settings, most_prompt_rows, plan_memory
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.llama_weights import LlamaWeights, column_multiple
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.prefill import Prefill
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.ranks.device_memory import (
    Abort,
    DeviceMemory,
    Layout,
    NcclGatherer,
    layout_of,
)
from openinference_engine.ranks.launching import Follower, LeadingLaunches, Send, TeamPrefill
from openinference_engine.ranks.part import first_part, part_of
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.ranks.sharing import MOST_RANKS, check_sharing, sharing
from openinference_engine.ranks.team import Ranks
from openinference_engine.ranks.team_kernels import TeamKernels

# By which GPUs of a kind may differ in what is free; of what plan_memory keeps for the steps.
SLACK_BYTES = 1 << 27
log = logging.getLogger("openinference.ranks")


@dataclass(frozen=True, slots=True)
class CudaPart:
    """prefill: None where a GPU has no kernels for prompts."""

    kernels: ModuleType
    decoder: Decoder
    prefill: Prefill | None
    memory: DeviceMemory

    @property
    def abort(self) -> Abort:
        return self.memory.abort

    def lead(self, send: Send, config: EngineConfig) -> list[CudaRunner]:
        """Rank 0's runner."""
        runner = CudaRunner(
            self.kernels,
            self.decoder,
            prefill=self.prefill,
            uses_graphs=config.uses_graphs,
            overlaps=config.overlaps_kernels,
            runs_ahead=config.runs_ahead,
            make_launches=partial(LeadingLaunches, send),
        )
        return [runner]

    def follow(self, config: EngineConfig) -> Follower:
        switches = config.uses_graphs, config.overlaps_kernels
        return Follower(self.kernels, self.decoder, self.prefill, *switches)


def plan_part(model: ModelConfig, config: EngineConfig, free_bytes: int) -> int:
    """Bytes of a GPU that a rank's part of the whole model, and what ranks write to each other,
    leave for the cache. Raises StartError if they do not suffice for one sequence.
    """
    group, shared_bytes = config.group, shared_layout(model, config).num_bytes
    try:
        return plan_memory(first_part(model, group), config, free_bytes - shared_bytes)
    except StartError as error:
        raise StartError(
            f"a part of {group.ranks_per_stage} by {sharing(group)}, beside "
            f"{shared_bytes / 2**20:.0f} MiB for what ranks write to each other: {error}"
        ) from None


def tensor_that_fits(model: ModelConfig, config: EngineConfig, free_bytes: int) -> int | None:
    """The fewest GPUs with as many bytes each that hold the model; None if no number of them may
    share it, or does."""
    for ranks in range(2, MOST_RANKS + 1):
        asked = replace(config, group=GroupConfig(tensor=ranks))
        with suppress(StartError):
            check_settings(model, asked)
            check_sharing(model, asked.group, column_multiple(config.weight_format))
            plan_part(model, asked, free_bytes)
            return ranks
    return None


def plan_cache(model: ModelConfig, config: EngineConfig, free_bytes: int) -> Capacity:
    """Of each rank, if its GPU has so many bytes. Raises StartError if the model does not fit."""
    part, spare_bytes = first_part(model, config.group), plan_part(model, config, free_bytes)
    return plan_capacity(part, config, spare_bytes, spare_bytes, _position_bytes(part, config))


def check_room(model: ModelConfig, config: EngineConfig, free_bytes: int, verdict: Verdict) -> None:
    """Raises StartError if this GPU has less room than rank 0's, by which the cache was planned."""
    capacity = plan_cache(model, config, free_bytes + SLACK_BYTES)
    if capacity.num_cache_blocks >= verdict.num_cache_blocks:
        return
    block_bytes = config.block_size * _position_bytes(first_part(model, config.group), config)
    raise StartError(
        f"{sharing(config.group)}: {free_bytes} bytes of this rank's GPU are free, which hold "
        f"{capacity.num_blocks} blocks of the cache beside its part of the model, and rank 0 has "
        f"planned {verdict.num_cache_blocks - 1}; end what else runs there, or use "
        f"--kv-cache-bytes {capacity.num_blocks * block_bytes}"
    )


def _position_bytes(part: ModelConfig, config: EngineConfig) -> int:
    return part.kv_bytes_per_token(CUDA_FORMATS[config.kv_cache_dtype])


def build_part(
    kernels: ModuleType,
    weights: LlamaWeights,
    model: ModelConfig,
    config: EngineConfig,
    ranks: Ranks,
    verdict: Verdict,
    *,
    has_prefill: bool,
    maps: bool = True,
) -> CudaPart:
    """weights: this rank's part; model: the whole. All ranks of the team call it at once."""
    device, team = weights.embedding.device, ranks.stage
    memory = DeviceMemory(kernels, team, shared_layout(model, config), device, maps)
    gatherer = None if memory.is_mapped else _nccl_gatherer(ranks, memory)
    way = "mapped memory" if memory.is_mapped else "NCCL"
    log.info("ranks exchange", extra={"fields": {"by": way, "ranks": team.size}})
    stand_in: ModuleType = TeamKernels(kernels, team, memory.view, gatherer)  # type: ignore[assignment]
    part = part_of(model, team, config.group.expert)
    cache_format = CUDA_FORMATS[config.kv_cache_dtype]
    cache = KVCache(part, verdict.num_cache_blocks, device, cache_format)
    pages_per_sequence = -(-verdict.max_model_len // PAGE_TOKENS)
    logits = memory.view.whole_logits
    decoder = Decoder(
        stand_in, weights, part, cache, pages_per_sequence, config.is_deterministic, logits
    )
    prefill = None
    if has_prefill:
        attention = PromptAttention(stand_in, cache, decoder.attention, pages_per_sequence)
        prefill = TeamPrefill(stand_in, weights, part, cache, attention, most_rows(config))
    return CudaPart(stand_in, decoder, prefill, memory)


def most_rows(config: EngineConfig) -> int:
    """Of a step."""
    return max(most_prompt_rows(config), MAX_ROWS)


def shared_layout(model: ModelConfig, config: EngineConfig) -> Layout:
    return layout_of(model, config.group.ranks_per_stage, most_rows(config), MAX_ROWS)


def _nccl_gatherer(ranks: Ranks, memory: DeviceMemory) -> NcclGatherer:
    try:
        if ranks.nccl is None:
            raise RuntimeError("this torch has no NCCL")
        name, team = f"stage-{ranks.place.stage}", ranks.stage
        return NcclGatherer(team, memory, ranks.nccl(name, team.index, team.size))
    except (ImportError, RuntimeError) as error:
        raise StartError(
            f"{sharing(ranks.config)}: these GPUs cannot map each other's memory, and NCCL does "
            f"not work ({error}); use one GPU, or GPUs that are linked"
        ) from error
