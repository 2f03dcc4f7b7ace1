"""A group of ranks with a GPU each, over seeded random weights made on the device.

Every rank is a process of the same benchmark. They meet, talk and run steps as in an engine; only
what they load is of no file.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, cast

import msgspec
import torch
from openinference_engine.backend import Capacity
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.cuda_paths import runs_prefill
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ranks.cuda_group import CudaGroup, FollowingPart, lead
from openinference_engine.ranks.cuda_part import CudaPart, build_part
from openinference_engine.ranks.cuda_pipeline import CudaStage, build_stage
from openinference_engine.ranks.cuda_stage import stage_model
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.ranks.leader import assemble
from openinference_engine.ranks.rendezvous import Verdict, host_meeting
from openinference_engine.ranks.team import Post, Ranks, Team
from openinference_engine.ranks.worker import serve_rank
from openinference_engine.speed import SpeedMeter
from openinference_engine.tiles import TILE_ROWS
from openinference_engine.weights.checkpoint import Checkpoint

from benchmarks.shapes import random_llama


@dataclass(frozen=True, slots=True)
class Meeting:
    """rendezvous: of rank 0, which it makes up itself."""

    group: GroupConfig  # its sizes
    rank: int
    rendezvous: str | None
    avoids_mapping: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """A checkpoint of which only the shape is asked."""

    config: ModelConfig
    fingerprint: str = "random"


def group_runner(
    model: ModelConfig, config: EngineConfig, capacity: Capacity, meeting: Meeting
) -> CudaGroup:
    """Rank 0's, when all have loaded. Another rank serves it, and ends with it, instead."""
    length = capacity.max_model_len
    device = torch.device("cuda", meeting.rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    kernels = load_kernels()
    rendezvous = meeting.rendezvous or _free_address()
    num_ranks = meeting.group.num_ranks
    group = msgspec.structs.replace(
        meeting.group, pods=num_ranks, pod=meeting.rank, rendezvous=rendezvous
    )
    config = msgspec.structs.replace(config, group=group)
    checkpoint = cast(Checkpoint, Shape(model))

    has_prefill = runs_prefill(kernels, device, config)

    def load(ranks: Ranks, post: Post, verdict: Verdict) -> CudaPart | CudaStage:
        part = stage_model(model, group, ranks.place.stage, ranks.stage.index).config
        own = random_llama(part, length, device, config.weight_format)
        own = _with_part_of_head(own, model.vocab_size, ranks.stage)
        if group.pipeline > 1:
            pods = msgspec.structs.replace(config, group=_in_pods(group, meeting))
            return build_stage(kernels, own, model, pods, ranks, verdict, has_prefill=has_prefill)
        return build_part(
            kernels, own, model, config, ranks, verdict,
            has_prefill=has_prefill, maps=not meeting.avoids_mapping,
        )  # fmt: skip

    def load_follower(ranks: Ranks, post: Post, verdict: Verdict) -> FollowingPart:
        return FollowingPart(load(ranks, post, verdict), config)

    if meeting.rank > 0:
        serve_rank(checkpoint, config, meeting.rank, load=load_follower)
        sys.exit()
    for rank in range(1, num_ranks):
        _start(rank, rendezvous)
    link, part = assemble(host_meeting(group), checkpoint, config, capacity, load)
    return lead(part, link, config, SpeedMeter())


def _in_pods(group: GroupConfig, meeting: Meeting) -> GroupConfig:
    """As if all ranks had one pod, or each stage its own."""
    pods = group.pipeline if meeting.avoids_mapping else 1
    pod = meeting.rank * pods // group.num_ranks
    return msgspec.structs.replace(group, pods=pods, pod=pod)


def _with_part_of_head(weights: LlamaWeights, vocabulary: int, team: Team) -> LlamaWeights:
    """The random weights with this rank's rows of the head alone."""
    rows = vocabulary_of(vocabulary, team.size, team.index)
    size = 1 if weights.head.dim() == 3 else TILE_ROWS  # packed rows lie in tiles
    tiles = slice(rows.start // TILE_ROWS * size, -(-rows.stop // TILE_ROWS) * size)
    return replace(weights, head=weights.head[tiles].clone())


def _start(rank: int, rendezvous: str) -> None:
    flags: list[Any] = ["--rank", rank, "--rendezvous", rendezvous]
    command = [*sys.orig_argv, *map(str, flags)]
    subprocess.Popen(command)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"
