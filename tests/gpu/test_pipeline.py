"""A pipeline of stages with a GPU each, in one process: its tokens are those of one GPU.

Emulated, a kernel that waits would keep the others from running, so another stage does what it is
told as late as it can: when rank 0 takes what the last stage has chosen. If a stage wrote over what
the next has not read yet, that one would wait in vain, and the pipeline be lost.
"""

from __future__ import annotations

from collections import deque
from itertools import count

import msgspec
import pytest
import torch
from openinference_engine import engine as engine_module
from openinference_engine.backend import Backend, Capacity
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.engine import Engine
from openinference_engine.errors import EngineError
from openinference_engine.llama_weights import load_llama
from openinference_engine.ops import cuda_reference
from openinference_engine.ranks.cuda_group import CudaGroup
from openinference_engine.ranks.cuda_pipeline import in_lanes
from openinference_engine.ranks.cuda_stage import stage_model
from openinference_engine.ranks.hops import StageMemory, layout_of
from openinference_engine.ranks.link import LeaderLink
from openinference_engine.ranks.messages import ToRank
from openinference_engine.request import Request, SamplingParams
from openinference_engine.speed import SpeedMeter
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import changed
from tests.gpu.sparse_model import SparseCheckpoint, cpu_engine
from tests.gpu.test_cuda_runner import NUM_BLOCKS, build_runner, check_greedy, prompts_of

MODEL = changed(
    num_layers=4, hidden_size=64, intermediate_size=64, num_heads=1, windows=(None, 8, 33, None)
)
CHECKPOINT = SparseCheckpoint(MODEL)
PAGES, SEATS, PROMPT_ROWS = 6, 4, 64
CAPACITY = Capacity(PAGES * 16, NUM_BLOCKS - 1)


class WithPrompts:
    """Kernels for whole prompts have no emulation: attention's reference stands in."""

    attend_prefill = staticmethod(cuda_reference.attend_prefill)

    def __init__(self, kernels):
        self._kernels = kernels

    def __getattr__(self, name):
        return getattr(self._kernels, name)


class Pipeline:
    """All stages. `depths`: whenever rank 0 took a choice, how many steps were under way."""

    def __init__(self, ops, stages, has_prefill=False, **switches):
        self._ops, self._pushed, self.depths = ops, 0, []
        config = EngineConfig("", **switches)
        group = GroupConfig(pipeline=stages)
        layouts = [layout_of(MODEL, group, stage, MAX_ROWS) for stage in range(stages)]
        spaces = [torch.zeros(layout.num_bytes, dtype=torch.uint8) for layout in layouts]
        followings = [*range(1, stages), 0]
        self.memories = [
            StageMemory(spaces[stage], layouts[stage], spaces[after].data_ptr(), layouts[after])
            for stage, after in enumerate(followings)
        ]
        self.stages = [self._stage(index, stages, config, has_prefill) for index in range(stages)]
        first, *others = self.stages
        self._followers = [(stage.follow(config), deque()) for stage in others]
        self.lanes = first.lead(self._send, config)

    @property
    def is_sound(self):
        """Nobody has waited in vain, and a lane had one step under way at most."""
        was_lost = any(memory.aborted.any() for memory in self.memories)
        return not was_lost and max(self.depths) <= len(self.lanes)

    def _stage(self, index, stages, config, has_prefill):
        part = stage_model(MODEL, GroupConfig(pipeline=stages), index)
        source = Weights(CHECKPOINT, torch.bfloat16)
        positions, cpu = MODEL.max_positions, torch.device("cpu")
        weights = load_llama(source, part.config, positions, cpu, extent=part.extent)
        cache = KVCache(part.config, NUM_BLOCKS, cpu)
        for layer in (*cache.keys, *cache.values):
            layer.fill_(torch.nan)  # what no token wrote may hold anything
        return in_lanes(
            WithPrompts(self._ops if index else self), weights, part, cache, PAGES,
            self.memories[index], list, stages, max_rows=PROMPT_ROWS if has_prefill else None,
            is_deterministic=config.is_deterministic,
        )  # fmt: skip

    def _send(self, message):
        for _, mail in self._followers:
            mail.append(msgspec.msgpack.encode(message))

    def __getattr__(self, name):
        if name == "push_rows":
            self._pushed += 1
        if name == "take_choice":
            self.depths.append(self._pushed - len(self.depths))
            for follower, mail in self._followers:
                while mail:
                    follower.take(msgspec.msgpack.decode(mail.popleft(), type=ToRank))
        return getattr(self._ops, name)


@pytest.fixture
def emulated(place):
    if place.device.type == "cuda":
        pytest.skip("stages of one process would wait for one another on one stream")
    return place.ops


@pytest.fixture
def new_engine(monkeypatch):
    """The engine over runners of these tests, of which several make a group."""

    def build(*lanes, step_tokens=PROMPT_ROWS):
        link, group = None, None
        if len(lanes) > 1:
            link = LeaderLink("127.0.0.1", pytest.fail)
            links.append(link)
            group = CudaGroup(list(lanes), link, SpeedMeter())
        backend = Backend(group or lanes[0], CAPACITY, "emulated", {}, runs_ahead=True, group=group)
        monkeypatch.setattr(engine_module, "load_backend", lambda *_: backend)
        sizes = {"max_sequences": SEATS, "max_step_tokens": step_tokens}
        return Engine(CHECKPOINT, EngineConfig("", **sizes, step_seconds=1e9))

    links = []
    yield build
    for link in links:
        link.close()


def requests():
    """Of all ways to draw: the likeliest, by a rule, with a history, and by the host."""
    ways = ({"temperature": 0}, {"temperature": 0.9, "top_k": 20}, {"presence_penalty": 1.5})
    ways = (*ways, {"temperature": 0, "num_logprobs": 2}, {"temperature": 0})
    return [
        Request(str(index), prompt, SamplingParams(**({"seed": index, "max_tokens": 5} | way)))
        for index, (prompt, way) in enumerate(zip(prompts_of(3, 19, 7, 2, 14), ways, strict=True))
    ]


def serve(engine, requests, every=2, aborts=()):
    """Tokens and log-probabilities of each request; one comes `every` so many steps."""
    results, coming = {request.id: [] for request in requests}, deque(requests)
    for step in count():
        while coming and step >= every * (len(requests) - len(coming)):
            engine.add(coming.popleft())
        if not coming and not engine.has_work:
            break
        for drawn in engine.step():
            results[drawn.request.id].append((drawn.token_id, drawn.logprobs))
            if drawn.request.id in aborts and len(results[drawn.request.id]) == 2:
                engine.abort(drawn.request.id)
        engine.scheduler.check_integrity()
    return results


@pytest.mark.parametrize(("stages", "runs_ahead"), [(2, False), (3, True)])
def test_tokens_and_log_probabilities_are_those_of_one_gpu(
    emulated, new_engine, place, stages, runs_ahead
):
    """Bit for bit, whoever comes and goes meanwhile."""
    single = build_runner(place, CHECKPOINT, is_deterministic=True)
    expected = serve(new_engine(single), requests(), aborts=("4",))
    pipeline = Pipeline(emulated, stages, is_deterministic=True, runs_ahead=runs_ahead)
    assert serve(new_engine(*pipeline.lanes), requests(), aborts=("4",)) == expected
    assert pipeline.is_sound


@pytest.mark.parametrize(
    ("way", "is_wanted"),
    [
        ({"temperature": 0}, False),
        ({"temperature": 0.9, "presence_penalty": 1.5}, False),
        ({"num_logprobs": 0}, True),
        ({"num_prompt_logprobs": 0}, True),
    ],
)
def test_logits_come_to_the_first_stage_where_it_reads_them(emulated, new_engine, way, is_wanted):
    pipeline = Pipeline(emulated, 2)
    params = SamplingParams(**({"seed": 0, "max_tokens": 3, "temperature": 0} | way))
    serve(new_engine(*pipeline.lanes), [Request("0", prompts_of(5)[0], params)])
    logits = [pipeline.memories[0].logits(lane) for lane in range(2)]
    assert any(map(torch.any, logits)) == is_wanted


def test_middle_stage_has_no_room_for_logits(emulated):
    pipeline = Pipeline(emulated, 3)
    widths = [stage.decoders[0].logits(1).shape[1] for stage in pipeline.stages]
    assert widths == [MODEL.vocab_size, 0, MODEL.vocab_size]


def test_prompts_of_many_rows_pass_the_stages(emulated, new_engine):
    """In chunks of up to 35 rows, of which nobody waits for the first."""
    params = SamplingParams(seed=0, max_tokens=3, temperature=0)
    prompts, oracle = prompts_of(90, 40), cpu_engine(CHECKPOINT)
    pipeline = Pipeline(emulated, 2, has_prefill=True)
    requests = [Request(str(index), prompt, params) for index, prompt in enumerate(prompts)]
    results = serve(new_engine(*pipeline.lanes, step_tokens=35), requests, every=1)
    for index, prompt in enumerate(prompts):
        check_greedy(oracle, prompt, [token for token, _ in results[str(index)]])
    assert pipeline.is_sound


def test_stage_that_has_waited_in_vain_ends_the_steps_of_all(emulated, new_engine):
    pipeline = Pipeline(emulated, 2)
    pipeline.memories[1].aborted.fill_(1)
    with pytest.raises(EngineError, match="another rank of this group did not answer in time"):
        serve(new_engine(*pipeline.lanes), greedy_ones(1))


def test_all_stages_have_a_step_while_there_are_as_many_requests(emulated, new_engine):
    """Whenever the first stage waits for tokens, it has given out the rows of all lanes."""
    pipeline = Pipeline(emulated, 3)
    serve(new_engine(*pipeline.lanes), greedy_ones(3), every=0)
    assert pipeline.depths.count(3) >= 3 * 5


def test_request_alone_stays_in_its_lane(emulated, new_engine):
    """Else what the device has computed ahead of the host would be thrown away."""
    pipeline = Pipeline(emulated, 2)
    serve(new_engine(*pipeline.lanes), greedy_ones(1))
    assert pipeline.depths == [1] * 6


def greedy_ones(count):
    params = SamplingParams(seed=0, max_tokens=6, temperature=0)
    return [Request(str(n), prompt, params) for n, prompt in enumerate(prompts_of(*[2] * count))]
