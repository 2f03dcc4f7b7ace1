"""A pipeline whose stages are teams: two stages of two ranks each, as threads of one process.

Emulated, a kernel that waits would keep the others from running. So a rank waits here, before its
kernel is called, until all of its team have pushed, or the stage before has. Between stages in
different pods gloo stands for NCCL, and waits by itself.
"""

from __future__ import annotations

import queue
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, ExpertsConfig, GroupConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.llama_weights import load_llama
from openinference_engine.ops import cuda_experts_reference, cuda_reference
from openinference_engine.ranks import device_memory
from openinference_engine.ranks.channels import open_ways
from openinference_engine.ranks.cuda_pipeline import in_lanes
from openinference_engine.ranks.cuda_stage import stage_model
from openinference_engine.ranks.hops import StageMemory, layout_of
from openinference_engine.ranks.layout import place_of
from openinference_engine.ranks.messages import ToRank
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.team import Ranks, Team
from openinference_engine.ranks.team_kernels import TeamKernels
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.loader import Weights
from torch._C._distributed_c10d import HashStore, PrefixStore, ProcessGroupGloo

from tests.gpu.random_model import changed
from tests.gpu.sparse_model import SparseCheckpoint, cpu_engine
from tests.gpu.test_cuda_runner import NUM_BLOCKS, check_greedy, prompts_of
from tests.gpu.test_pipeline import (  # noqa: F401 new_engine and emulated are fixtures
    PAGES,
    PROMPT_ROWS,
    emulated,
    new_engine,
    requests,
    serve,
)
from tests.gpu.test_team import build_team

MODEL = changed(
    num_layers=3, hidden_size=64, intermediate_size=64, num_heads=2, num_kv_heads=1
)  # fmt: skip
FOUR_LAYERS = msgspec.structs.replace(MODEL, num_layers=4)
SPARSE = msgspec.structs.replace(
    MODEL, architecture="qwen3moe", experts=ExpertsConfig(4, 2, 64, True)
)
PATIENCE_SECONDS = 60


class Turns:
    """The kernels of one rank, which is called when what it is to wait for is there."""

    attend_prefill = staticmethod(cuda_reference.attend_prefill)
    prefill_gate_up = staticmethod(cuda_experts_reference.prefill_gate_up)
    prefill_down = staticmethod(cuda_experts_reference.prefill_down)

    def __init__(self, kernels, barrier, pushed):
        """pushed: for the address of an inbox between stages, what was pushed there; None for one
        that something else fills."""
        self._kernels, self._barrier, self._pushed = kernels, barrier, pushed
        self._hops = {}

    def Team(self, **fields):
        team = self._kernels.Team(**fields)
        if fields["ranks"] == 1:
            self._hops[team] = self._pushed[fields["inboxes"][0]]
        return team

    def __getattr__(self, name):
        op = getattr(self._kernels, name)
        if name in (
            "push_rows",
            "push_choice",
            "take_rows",
            "take_choice",
            "add_partials",
            "add_parts",
        ):
            return lambda *arguments: self._in_turn(name, op, arguments)
        return op

    def _in_turn(self, name, op, arguments):
        is_push = name.startswith("push")
        hops = [self._hops[each] for each in self._hops if each in arguments]
        if not hops and not is_push:
            self._barrier.wait(PATIENCE_SECONDS)
        pushed = [each for each in hops if each is not None]
        for each in [] if is_push else pushed:
            assert each.acquire(timeout=PATIENCE_SECONDS)
        op(*arguments)
        for each in pushed if is_push else []:
            each.release()


class PipelineOfTeams:
    """All ranks: the first's lanes, and threads that follow it until it is ended."""

    def __init__(self, ops, group, checkpoint, has_prefill=False):
        self._group, self._checkpoint, self._has_prefill = group, checkpoint, has_prefill
        self._memories = []
        self._config = EngineConfig("", is_deterministic=not has_prefill, group=group)
        model, size = checkpoint.config, group.ranks_per_stage
        self._layouts = [
            layout_of(model, group, stage, MAX_ROWS) for stage in range(group.pipeline)
        ]
        self._of_team = device_memory.layout_of(model, size, MAX_ROWS, MAX_ROWS)
        places = [place_of(rank, group) for rank in range(group.num_ranks)]
        self._spaces = [
            torch.zeros(self._layouts[place.stage].num_bytes + self._of_team.num_bytes).byte()
            for place in places
        ]
        barriers = [threading.Barrier(size) for _ in range(group.pipeline)]
        self._pushed = defaultdict(lambda: threading.Semaphore(0))
        self._store = HashStore()
        with ThreadPoolExecutor(group.num_ranks) as pool:  # both ends of a way open it at once
            self._ways = list(pool.map(self._open_ways, range(group.num_ranks)))
        first, *others = [
            self._part(place, Turns(ops, barriers[place.stage], self._pushed)) for place in places
        ]
        self._mail = [queue.SimpleQueue() for _ in others]
        self._threads = [
            threading.Thread(target=self._follow, args=(part, mail), daemon=True)
            for part, mail in zip(others, self._mail, strict=True)
        ]
        for thread in self._threads:
            thread.start()
        self.lanes = first.lead(self._send, self._config)

    def end(self):
        """Whether all ranks have ended steps, and none has waited in vain, nor is waiting."""
        for mail in self._mail:
            mail.put(None)
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        are_done = not any(thread.is_alive() for thread in self._threads)
        states = [memory.state.tolist() for memory in self._memories]
        return are_done and all(ended > 0 and not aborted for ended, aborted in states)

    def _part(self, place, kernels):
        group, model, cpu = self._group, self._checkpoint.config, torch.device("cpu")
        size = group.ranks_per_stage
        team = Team(place.rank % size, size)
        memory = self._memory(place)
        view = memory.shared_by(self._of_team, team.index, self._peers(place))
        part = stage_model(model, group, place.stage, team.index)
        own = CheckpointPart(self._checkpoint, team, group.expert)
        source = Weights(own, torch.bfloat16, ranks=Ranks(group, place.rank, stage=team))
        weights = load_llama(source, part.config, model.max_positions, cpu, extent=part.extent)
        cache = KVCache(part.config, NUM_BLOCKS, cpu)
        for layer in (*cache.keys, *cache.values):
            layer.fill_(torch.nan)
        return in_lanes(
            TeamKernels(kernels, team, view), weights, part, cache, PAGES, memory, list,
            group.pipeline, max_rows=PROMPT_ROWS if self._has_prefill else None,
            is_deterministic=self._config.is_deterministic,
            logits=view.whole_logits if part.extent.has_head else None,
        )  # fmt: skip

    def _open_ways(self, rank):
        ranks = Ranks(self._group, rank, nccl=self._gloo)
        return open_ways(ranks, torch.device("cpu"), *self._far(rank))

    def _far(self, rank):
        """Whether the stages before and behind are in other pods."""
        group, size = self._group, self._group.ranks_per_stage
        others = ((rank + step) % group.num_ranks for step in (-size, size))
        return [group.pod_of(other) != group.pod_of(rank) for other in others]

    def _gloo(self, name, index, size):
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        return ProcessGroupGloo(PrefixStore(name, self._store), index, size, options)

    def _memory(self, place):
        size = self._group.ranks_per_stage
        following = (place.stage + 1) % self._group.pipeline
        next_space = self._spaces[following * size + place.rank % size]
        own, copy = self._spaces[place.rank], torch.zeros_like(next_space)
        layouts = self._layouts[place.stage], self._layouts[following]
        is_far = self._far(place.rank)
        for far, space, layout in zip(is_far, (own, copy), layouts, strict=True):
            for lane in range(layout.lanes if far else 0):
                self._pushed[space.data_ptr() + layout.inbox(lane)] = None
        after = copy if is_far[1] else next_space.data_ptr()
        memory = StageMemory(own, layouts[0], after, layouts[1], self._ways[place.rank])
        self._memories.append(memory)
        return memory

    def _peers(self, place):
        size = self._group.ranks_per_stage
        ranks = range(place.stage * size, (place.stage + 1) * size)
        return [self._spaces[rank].data_ptr() for rank in ranks if rank != place.rank]

    def _follow(self, part, mail):
        followers = part.follow(self._config)
        while (data := mail.get()) is not None:
            followers.take(msgspec.msgpack.decode(data, type=ToRank))

    def _send(self, message):
        for mail in self._mail:
            mail.put(msgspec.msgpack.encode(message))


groups = pytest.mark.parametrize(
    ("checkpoint", "group"),
    [
        (SparseCheckpoint(MODEL), GroupConfig(pipeline=2, tensor=2)),
        (SparseCheckpoint(SPARSE), GroupConfig(pipeline=2, expert=2)),
        (SparseCheckpoint(FOUR_LAYERS), GroupConfig(4, 2, pods=2, rendezvous="pod-0:8001")),
    ],
    ids=["tensor", "expert", "pods"],
)


@groups
def test_tokens_and_log_probabilities_are_those_of_one_team(
    emulated, new_engine, place, checkpoint, group  # noqa: F811
):  # fmt: skip
    """Bit for bit, whoever comes and goes meanwhile."""
    ranks = group.ranks_per_stage
    single, send, threads, _ = build_team(
        place, checkpoint, ranks, "bfloat16", group.expert, is_deterministic=True
    )
    expected = serve(new_engine(single), requests(), aborts=("4",))
    send(None)
    for thread in threads:
        thread.join()
    pipeline = PipelineOfTeams(emulated, group, checkpoint)
    assert serve(new_engine(*pipeline.lanes), requests(), aborts=("4",)) == expected
    assert pipeline.end()


@groups
def test_prompts_of_many_rows_pass_the_teams(
    emulated, new_engine, checkpoint, group  # noqa: F811
):  # fmt: skip
    """In chunks of up to 35 rows, of which nobody waits for the first."""
    params, prompts = SamplingParams(seed=0, max_tokens=3, temperature=0), prompts_of(90, 40)
    pipeline = PipelineOfTeams(emulated, group, checkpoint, has_prefill=True)
    several = [Request(str(index), prompt, params) for index, prompt in enumerate(prompts)]
    results = serve(new_engine(*pipeline.lanes, step_tokens=35), several, every=1)
    assert pipeline.end()
    for index, prompt in enumerate(prompts):
        check_greedy(cpu_engine(checkpoint), prompt, [token for token, _ in results[str(index)]])
