"""A group whose ranks have a GPU each, in one pod: tensor parallel, or a pipeline.

Rank 0 runs steps as an engine on one GPU does (`cuda_runner`), over its part of the model, and
tells the others what to queue (`launching`). In a pipeline it does so in several lanes (`lanes`).
"""

from __future__ import annotations

from collections import deque
from types import ModuleType

import msgspec
import torch

from openinference_engine.backend import Backend, Capacity
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.cuda_backend import check_settings, find_gpu
from openinference_engine.cuda_paths import kernel_path, op_paths, runs_prefill
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.errors import StartError
from openinference_engine.llama_weights import column_multiple, load_llama
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ranks.cuda_part import CudaPart, build_part, check_room, plan_cache
from openinference_engine.ranks.cuda_pipeline import CudaStage, load_stage
from openinference_engine.ranks.layout import check_fits, divisors, listed
from openinference_engine.ranks.leader import assemble, patience_seconds
from openinference_engine.ranks.link import LeaderLink
from openinference_engine.ranks.messages import ToRank
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.pipeline_plan import plan_pipeline
from openinference_engine.ranks.rendezvous import Verdict, host_meeting
from openinference_engine.ranks.sharing import check_sharing
from openinference_engine.ranks.team import Post, Ranks
from openinference_engine.ranks.watch import End, end_process
from openinference_engine.ranks.worker import Load
from openinference_engine.results import StepResult
from openinference_engine.speed import SpeedMeter
from openinference_engine.step import Step
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.kernel_formats import stored_format
from openinference_engine.weights.loader import Weights


class CudaGroup:
    """Runs steps on all GPUs of the group; the watch ends it if one takes too long."""

    def __init__(self, lanes: list[CudaRunner], link: LeaderLink, speed: SpeedMeter) -> None:
        """lanes: in each a step may be under way."""
        self.num_stages = len(lanes)
        self._free, self._link, self._speed = lanes, link, speed
        self._under_way: deque[tuple[Step, CudaRunner]] = deque()

    def warm_up(self, max_rows: int) -> None:
        for lane in self._free:
            lane.warm_up(max_rows)

    def run(self, step: Step) -> StepResult:
        self.begin(step)
        return self.finish()

    def begin(self, step: Step) -> None:
        seconds = patience_seconds(self._speed, step, *(earlier for earlier, _ in self._under_way))
        self._link.watch.expect(seconds)
        lane = max(self._free, key=lambda one: (one.has_begun(step), not one.is_ahead))
        self._free.remove(lane)
        lane.begin(step)
        self._under_way.append((step, lane))

    def finish(self) -> StepResult:
        _, lane = self._under_way.popleft()
        result = lane.finish()
        self._free.append(lane)
        if not self._under_way:  # else the deadline is theirs too
            self._link.watch.done()
        return result

    def is_leaving(self) -> bool:
        return self._link.is_leaving()

    def close(self) -> None:
        self._link.close()


class FollowingPart:
    """Another rank's part, as the loop of `worker` knows it."""

    def __init__(self, part: CudaPart | CudaStage, config: EngineConfig) -> None:
        self._follower, self.abort = part.follow(config), part.abort

    def take(self, message: ToRank) -> None:
        self._follower.take(message)


def load_cuda_group(
    checkpoint: Checkpoint, asked: EngineConfig, speed: SpeedMeter, end: End = end_process
) -> Backend:
    """Meets the other ranks and loads this one's part. asked: what all pods are told.

    Raises StartError if the model does not fit or a rank is missing, differs or fails.
    """
    meeting = host_meeting(asked.group)
    with meeting.telling():
        config = _settled(checkpoint, asked)
        kernels, device = prepare_gpu(checkpoint, config, 0)
        capacity = _plan(checkpoint.config, config, torch.cuda.mem_get_info(device)[0])

    def load(ranks: Ranks, post: Post, verdict: Verdict) -> CudaPart | CudaStage:
        return load_part(checkpoint, config, kernels, device, ranks, verdict)

    link, part = assemble(meeting, checkpoint, asked, capacity, load, end)
    group = lead(part, link, config, speed)
    path = kernel_path(device, config)
    if config.group.ranks_per_stage > 1:
        path += f"-tensor{config.group.tensor}"
        path += f"-expert{config.group.expert}" if config.group.expert > 1 else ""
    paths = op_paths(kernels, device, config)
    return Backend(group, capacity, path, paths, runs_ahead=config.runs_ahead, group=group)


def lead(
    part: CudaPart | CudaStage, link: LeaderLink, config: EngineConfig, speed: SpeedMeter
) -> CudaGroup:
    """Rank 0's runners over its loaded part."""
    link.watch.before_end = part.abort
    return CudaGroup(part.lead(link.send, config), link, speed)


def follower_loader(checkpoint: Checkpoint, config: EngineConfig, rank: int) -> Load:
    """For another rank. Raises StartError if its GPU cannot do it."""
    config = _settled(checkpoint, config)
    kernels, device = prepare_gpu(checkpoint, config, rank)

    def load(ranks: Ranks, post: Post, verdict: Verdict) -> FollowingPart:
        part = load_part(checkpoint, config, kernels, device, ranks, verdict)
        return FollowingPart(part, config)

    return load


def prepare_gpu(
    checkpoint: Checkpoint, config: EngineConfig, rank: int
) -> tuple[ModuleType, torch.device]:
    """Kernels, and the GPU of this rank: the one of its number. Raises StartError."""
    group, model = config.group, checkpoint.config
    _check_group(group, model)
    check_settings(model, config)
    check_sharing(model, group, column_multiple(config.weight_format))
    kernels = load_kernels()
    in_pod = group.ranks_of(group.pod)
    if 0 < (count := torch.cuda.device_count()) < len(in_pod):
        raise StartError(
            f"--pipeline {group.pipeline}, --tensor {group.tensor} and --expert {group.expert} "
            f"in --pods {group.pods} need {len(in_pod)} GPUs in each, and this process sees "
            f"{count}; give each pod nvidia.com/gpu: {len(in_pod)} or use fewer ranks"
        )
    if count:
        torch.cuda.set_device(rank - in_pod.start)
    return kernels, find_gpu()


def load_part(
    checkpoint: Checkpoint,
    config: EngineConfig,
    kernels: ModuleType,
    device: torch.device,
    ranks: Ranks,
    verdict: Verdict,
) -> CudaPart | CudaStage:
    loads = load_stage if config.group.pipeline > 1 else _load_slices
    return loads(checkpoint, config, kernels, device, ranks, verdict)


def _load_slices(
    checkpoint: Checkpoint,
    config: EngineConfig,
    kernels: ModuleType,
    device: torch.device,
    ranks: Ranks,
    verdict: Verdict,
) -> CudaPart:
    model, own = checkpoint.config, CheckpointPart(checkpoint, ranks.stage, config.group.expert)
    check_room(model, config, torch.cuda.mem_get_info(device)[0], verdict)
    source = Weights(own, torch.bfloat16, ranks=ranks)
    weights = load_llama(source, own.config, verdict.max_model_len, device, config.weight_format)
    torch.cuda.empty_cache()
    return build_part(
        kernels, weights, model, config, ranks, verdict,
        has_prefill=runs_prefill(kernels, device, config),
    )  # fmt: skip


def _plan(model: ModelConfig, config: EngineConfig, free_bytes: int) -> Capacity:
    """Of all ranks, if each GPU has as many bytes. Raises StartError if the model does not fit."""
    if config.group.pipeline > 1:
        return plan_pipeline(model, config, free_bytes)
    return plan_cache(model, config, free_bytes)


def _settled(checkpoint: Checkpoint, config: EngineConfig) -> EngineConfig:
    """With the format of weights that `auto` means."""
    if config.weights != "auto":
        return config
    return msgspec.structs.replace(config, weights=stored_format(checkpoint))


def _check_group(group: GroupConfig, model: ModelConfig) -> None:
    if group.pipeline % group.pods:
        raise StartError(
            f"--pods {group.pods} does not divide --pipeline {group.pipeline}, and GPUs share a "
            f"stage within one pod; use --pods {listed(divisors(group.pipeline))}"
        )
    check_fits(model, group)
