"""A pipeline of GPUs: what each stage loads, plans and runs.

Stages are cut between layers, and what passes is all that the next layer reads, so tokens, log
probabilities and kernel path are those of one GPU. A stage may be a team of several
(`team_kernels`): then each hands its rows to the rank of its index in the next stage, and the bits
are those of such a team alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import cast

import torch
from torch import Tensor

from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_paths import runs_prefill
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.llama_weights import LlamaWeights, load_llama
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.ranks.channels import neighbour, open_ways
from openinference_engine.ranks.cuda_part import most_rows
from openinference_engine.ranks.cuda_stage import (
    StageDecoder,
    StageModel,
    StagePrefill,
    stage_model,
)
from openinference_engine.ranks.device_memory import Abort, SharedMemory
from openinference_engine.ranks.hops import StageMemory
from openinference_engine.ranks.lanes import LaneFollower, LaneFollowers, LaneLaunches
from openinference_engine.ranks.launching import Send
from openinference_engine.ranks.messages import ForLane, ToQueue
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.pipeline_plan import (
    check_room,
    shared_bytes,
    stage_layout,
    team_layout,
)
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.ranks.team import Ranks
from openinference_engine.ranks.team_kernels import TeamKernels
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.loader import Weights

log = logging.getLogger("openinference.ranks")


@dataclass(frozen=True, slots=True)
class CudaStage:
    """A rank's stage in all lanes. prefills: None where a GPU has no kernels for prompts."""

    kernels: ModuleType
    decoders: list[StageDecoder]
    prefills: list[StagePrefill | None]
    abort: Callable[[], None]

    def lead(self, send: Send, config: EngineConfig) -> list[CudaRunner]:
        """Rank 0's runners, one for each lane."""

        def send_for(lane: int, message: ToQueue) -> None:
            send(ForLane(lane, message))

        has_peers = config.group.ranks_per_stage > 1
        return [
            CudaRunner(
                self.kernels,
                decoder,
                prefill=prefill,
                uses_graphs=config.uses_graphs,
                overlaps=config.overlaps_kernels,
                runs_ahead=config.runs_ahead,
                make_launches=partial(LaneLaunches, partial(send_for, lane), has_peers),
            )
            for lane, (decoder, prefill) in enumerate(self._lanes)
        ]

    def follow(self, config: EngineConfig) -> LaneFollowers:
        switches = config.uses_graphs, config.overlaps_kernels
        return LaneFollowers([LaneFollower(self.kernels, *lane, *switches) for lane in self._lanes])

    @property
    def _lanes(self) -> list[tuple[StageDecoder, StagePrefill | None]]:
        return list(zip(self.decoders, self.prefills, strict=True))


def load_stage(
    checkpoint: Checkpoint,
    config: EngineConfig,
    kernels: ModuleType,
    device: torch.device,
    ranks: Ranks,
    verdict: Verdict,
) -> CudaStage:
    """Reads this stage's part of the model. Raises StartError if it does not fit."""
    model, stage = checkpoint.config, ranks.place.stage
    check_room(model, config, stage, torch.cuda.mem_get_info(device)[0], verdict)
    part = stage_model(model, config.group, stage, ranks.stage.index)
    own = CheckpointPart(checkpoint, ranks.stage, config.group.expert)
    weights = load_llama(
        Weights(own, torch.bfloat16, ranks=ranks), part.config, verdict.max_model_len, device,
        config.weight_format, part.extent,
    )  # fmt: skip
    torch.cuda.empty_cache()
    return build_stage(
        kernels, weights, model, config, ranks, verdict,
        has_prefill=runs_prefill(kernels, device, config),
    )  # fmt: skip


def build_stage(
    kernels: ModuleType,
    weights: LlamaWeights,
    model: ModelConfig,
    config: EngineConfig,
    ranks: Ranks,
    verdict: Verdict,
    *,
    has_prefill: bool,
) -> CudaStage:
    """weights: this rank's. All ranks call it at once. Raises StartError if GPUs are apart."""
    group, device = config.group, weights.rotary.device
    part = stage_model(model, group, ranks.place.stage, ranks.stage.index)
    shared = _share_memory(kernels, model, config, ranks, device)
    memory, logits = _stage_memory(shared, model, config, ranks), None
    if group.ranks_per_stage > 1:
        layout = team_layout(model, config, ranks.place.stage)
        view = memory.shared_by(layout, ranks.stage.index, _peers(ranks, shared))
        kernels = cast(ModuleType, TeamKernels(kernels, ranks.stage, view))
        logits = view.whole_logits if part.extent.has_head else None
    cache_format = CUDA_FORMATS[config.kv_cache_dtype]
    cache = KVCache(part.config, verdict.num_cache_blocks, device, cache_format)
    pages = -(-verdict.max_model_len // PAGE_TOKENS)
    max_rows = most_rows(config) if has_prefill else None
    return in_lanes(
        kernels, weights, part, cache, pages, memory, Abort(memory.aborted), group.pipeline,
        max_rows=max_rows, is_deterministic=config.is_deterministic, logits=logits,
    )  # fmt: skip


def _share_memory(
    kernels: ModuleType,
    model: ModelConfig,
    config: EngineConfig,
    ranks: Ranks,
    device: torch.device,
) -> SharedMemory:
    group, stage = config.group, ranks.place.stage
    near = group.ranks_of(group.pod)
    num_bytes, peers = shared_bytes(model, config, stage), set(near) - {ranks.rank}
    shared = SharedMemory(kernels, ranks.everybody, num_bytes, device, sorted(peers))
    if not shared.is_mapped:
        raise StartError(
            f"--pipeline {group.pipeline}: the GPUs of a pod cannot map each other's memory; use "
            f"GPUs that are linked, a pod for each, or --tensor {group.num_ranks} in one pod, "
            "which can go by NCCL"
        )
    way = "mapped memory" + (", NCCL between pods" if len(near) < group.num_ranks else "")
    fields = {"by": way, "stage": stage, "stages": group.pipeline, "ranks": group.num_ranks}
    log.info("ranks exchange", extra={"fields": fields})
    return shared


def _stage_memory(
    shared: SharedMemory, model: ModelConfig, config: EngineConfig, ranks: Ranks
) -> StageMemory:
    stage, stages = ranks.place.stage, config.group.pipeline
    following = stage_layout(model, config, (stage + 1) % stages)
    mapped = shared.addresses.get(neighbour(ranks, 1))
    is_far_before = neighbour(ranks, -1) not in shared.addresses
    return StageMemory(
        shared.bytes,
        stage_layout(model, config, stage),
        shared.bytes.new_zeros(following.num_bytes) if mapped is None else mapped,
        following,
        open_ways(ranks, shared.bytes.device, is_far_before, mapped is None),
    )


def _peers(ranks: Ranks, shared: SharedMemory) -> list[int]:
    """Addresses of the memory of the others in a rank's stage, in their order."""
    size, place = ranks.stage.size, ranks.place
    first = place.stage * size
    return [shared.addresses[rank] for rank in range(first, first + size) if rank != place.rank]


def in_lanes(
    kernels: ModuleType,
    weights: LlamaWeights,
    part: StageModel,
    cache: KVCache,
    pages_per_sequence: int,
    memory: StageMemory,
    abort: Callable[[], None],
    lanes: int,
    *,
    max_rows: int | None,
    is_deterministic: bool = False,
    logits: Tensor | None = None,
) -> CudaStage:
    """max_rows: of prompts, where the kernels have those for them. logits: where ranks of the last
    stage write them to each other."""
    model, extent = part.config, part.extent
    hops = [memory.hops(kernels, lane) for lane in range(lanes)]
    logits = memory.logits(0) if logits is None else logits
    decoder = StageDecoder(
        kernels, weights, model, cache, pages_per_sequence, is_deterministic, logits
    )
    prefill = None
    if max_rows is not None:
        attention = PromptAttention(kernels, cache, decoder.attention, pages_per_sequence)
        prefill = StagePrefill(kernels, weights, model, cache, attention, max_rows)
    return CudaStage(
        kernels,
        [decoder.in_lane(lane, extent, of, memory.logits(lane)) for lane, of in enumerate(hops)],
        [None if prefill is None else prefill.in_lane(extent, of) for of in hops],
        abort,
    )
