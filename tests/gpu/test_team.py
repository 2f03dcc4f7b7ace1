"""A team of ranks on GPUs, as threads with memory of one process: each has a part of every matrix.

On a GPU nothing but the hardware makes a rank wait for another's words; emulated, a rank that waits
would keep the others from running, so `Lockstep` lets all push before one receives.
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.cuda_backend import plan_memory
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.errors import EngineError, StartError
from openinference_engine.llama_weights import load_llama
from openinference_engine.ranks.cuda_group import prepare_gpu
from openinference_engine.ranks.cuda_part import check_room, plan_cache, plan_part
from openinference_engine.ranks.device_memory import (
    Layout,
    NcclGatherer,
    SharedMemory,
    gathered_parts,
    layout_of,
)
from openinference_engine.ranks.launching import Follower, LeadingLaunches
from openinference_engine.ranks.layout import vocabulary_of
from openinference_engine.ranks.messages import ToRank
from openinference_engine.ranks.part import CheckpointPart, part_of
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.ranks.team import Ranks, Team
from openinference_engine.ranks.team_kernels import TeamKernels
from openinference_engine.request import SamplingParams
from openinference_engine.step import Chunk, Draw, Step
from openinference_engine.weights.loader import Weights
from torch._C._distributed_c10d import HashStore, ProcessGroupGloo

from benchmarks.shapes import SHAPES
from tests.gpu.random_model import RandomCheckpoint, build_oracle, changed
from tests.gpu.team_memory import Memory
from tests.gpu.test_cuda_runner import MAX_LENGTH, NUM_BLOCKS, check_greedy, generate, prompts_of

CONFIG = changed(num_heads=4, num_kv_heads=2, hidden_size=128, intermediate_size=256)


class Lockstep:
    """The kernels of one of several ranks: nobody receives before all have pushed."""

    def __init__(self, kernels, barrier):
        self._kernels, self._barrier = kernels, barrier

    def __getattr__(self, name):
        if name in ("add_partials", "add_parts", "take_choice"):
            self._barrier.wait(60)
        return getattr(self._kernels, name)


def build_team(place, checkpoint, ranks, weight_format, expert=1, is_deterministic=False):
    """Rank 0's runner, and threads that follow it until they are sent None.

    expert: in so many parts the team divides whole experts.
    """
    model = checkpoint.config
    elements = MAX_ROWS * model.hidden_size
    memory = Memory(
        ranks, ranks * elements // 2, MAX_ROWS, model.vocab_size, place.device, elements
    )
    barrier, mail = threading.Barrier(ranks), [queue.SimpleQueue() for _ in range(ranks - 1)]

    def decoder_of(rank):
        team = Team(rank, ranks)
        part = CheckpointPart(checkpoint, team, expert)
        source = Weights(part, torch.bfloat16, ranks=Ranks(rank=rank, stage=team))
        weights = load_llama(source, part.config, 128, place.device, weight_format)
        cache = KVCache(part.config, NUM_BLOCKS, place.device)
        for layer in (*cache.keys, *cache.values):
            layer.fill_(torch.nan)
        own = Lockstep(place.ops, barrier), team, memory.seen_by(rank)
        kernels = TeamKernels(*own, many_elements=64 * model.hidden_size)
        logits = memory.logits[rank]
        pages = MAX_LENGTH // 16
        settings = is_deterministic, logits
        return kernels, Decoder(kernels, weights, part.config, cache, pages, *settings)

    def follow(rank):
        follower = Follower(*decoder_of(rank), None, uses_graphs=False, overlaps=False)
        while (message := mail[rank - 1].get()) is not None:
            follower.take(message)

    def send(message):
        """As the link between ranks does: encoded; None ends a follower."""
        sent = message and msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=ToRank)
        for box in mail:
            box.put(sent)

    threads = [
        threading.Thread(target=follow, args=(rank,), daemon=True) for rank in range(1, ranks)
    ]
    for thread in threads:
        thread.start()
    runner = CudaRunner(*decoder_of(0), make_launches=partial(LeadingLaunches, send))
    return runner, send, threads, memory


@pytest.mark.parametrize(
    ("ranks", "weight_format"),
    [(2, "bfloat16"), (2, "fp8"), (2, "int8"), (2, "int4"), (4, "bfloat16")],
)
def test_team_draws_what_the_model_does(place, ranks, weight_format):
    """Four ranks share two key heads. Ranks of the team hold the same logits, bit for bit."""
    if place.device.type == "cuda":
        pytest.skip("ranks of one process would wait for one another on one stream")
    checkpoint = RandomCheckpoint(CONFIG)
    oracle = build_oracle(checkpoint.config, weight_format)
    prompts = prompts_of(3, 66 if ranks == 4 else 9)  # many rows, which peers read
    runner, send, threads, memory = build_team(place, checkpoint, ranks, weight_format)
    outputs, _ = generate(runner, prompts, num_tokens=4)
    chance = {"temperature": 1.0, "num_logprobs": 2}  # drawn and rated on every rank
    generate(runner, prompts, num_tokens=3, **chance)
    send(None)
    for thread in threads:
        thread.join()
    for prompt, output in zip(prompts, outputs, strict=True):
        check_greedy(oracle, prompt, output)
    for logits in memory.logits[1:]:
        assert torch.equal(logits, memory.logits[0])


@pytest.mark.parametrize("draws", [True, False], ids=["drawn", "only rated"])
def test_step_of_a_lost_team_is_an_error(place, draws):
    """Whatever is waited for: log-probabilities of a lost rank's logits are none."""
    if place.device.type == "cuda":
        pytest.skip("ranks of one process would wait for one another on one stream")
    runner, send, threads, memory = build_team(place, RandomCheckpoint(CONFIG), 2, "bfloat16")
    memory.states[0][1] = 1
    draw = Draw(SamplingParams(seed=1, max_tokens=1, temperature=0), 1, [5]) if draws else None
    step = Step([Chunk("0", [5, 6], 0, [0], draw, targets=[] if draws else [6, 7])])
    with pytest.raises(EngineError, match="another rank of this group did not answer in time"):
        runner.run(step)
    send(None)
    for thread in threads:
        thread.join()


def test_what_ranks_write_to_each_other_is_no_room_for_the_cache():
    """7B on two GPUs: two inboxes with 4,096 rows of each rank, 128 rows of logits, and twice
    4,096 rows of a product."""
    model = SHAPES["llama-2-7b"]
    config = EngineConfig("", max_step_tokens=4096, group=GroupConfig(tensor=2))
    own, gib = part_of(model, Team(0, 2)), 1 << 30
    taken = plan_memory(own, config, 79 * gib) - plan_part(model, config, 79 * gib)
    inboxes, parts = 2 * 2 * 4096 * 2048 * 8, 2 * 4096 * 4096 * 2
    assert taken == pytest.approx(inboxes + parts + 128 * 32_000 * 4, abs=64)
    message = (
        r"a part of 2 by --tensor 2, beside 336 MiB for what ranks write to each other: --weights"
    )
    with pytest.raises(StartError, match=message):
        plan_part(model, config, 8 * gib)


@pytest.mark.parametrize("settings", [{}, {"kv_cache_bytes": 8 << 30}], ids=["planned", "given"])
def test_gpu_with_less_room_than_the_first_is_refused_with_the_numbers(settings):
    """One sequence fits there, so it was the allocation of the cache that failed."""
    model, gib = SHAPES["llama-2-7b"], 1 << 30
    config = EngineConfig("", max_sequences=64, group=GroupConfig(tensor=2), **settings)
    verdict = Verdict(num_cache_blocks=plan_cache(model, config, 20 * gib).num_cache_blocks)
    check_room(model, config, 20 * gib - (1 << 26), verdict)  # GPUs of a kind differ a little
    with pytest.raises(StartError, match="--kv-cache-bytes") as error:
        check_room(model, config, 12 * gib, verdict)
    fitting = msgspec.structs.replace(config, kv_cache_bytes=int(str(error.value).split()[-1]))
    verdict = Verdict(num_cache_blocks=plan_cache(model, fitting, 20 * gib).num_cache_blocks)
    check_room(model, fitting, 12 * gib, verdict)


def test_gpu_without_room_for_what_ranks_write_says_how_much_that_is():
    """The driver's own words have no number, and another rank saw no more than a lost link."""

    def share_memory(num_bytes):
        raise RuntimeError("share_memory: out of memory")

    kernels, device = SimpleNamespace(share_memory=share_memory), torch.device("cpu")
    message = r"3\.0 GiB for what ranks write to each other: share_memory: out of memory; end what"
    with pytest.raises(StartError, match=message):
        SharedMemory(kernels, Team(0, 2), 3 << 30, device, [1])


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_parts_that_are_gathered_have_room_in_the_other_inbox(ranks):
    """So memory is planned for them, whether ranks map each other's or not."""
    layout = layout_of(CONFIG, ranks, max_rows=512, logit_rows=128)
    inbox = torch.zeros(layout.words, dtype=torch.int64)
    parts = gathered_parts(inbox, layout, ranks)
    for number, part in enumerate(parts, start=1):
        part.fill_(number)
    assert [part.unique().tolist() for part in parts] == [[one] for one in range(1, ranks + 1)]
    assert {part.shape for part in parts} == {(512 * CONFIG.hidden_size,)}
    assert all(part.data_ptr() % 16 == 0 for part in parts)
    assert parts[0].data_ptr() == inbox.data_ptr()


def test_ranks_that_cannot_write_to_each_other_gather_words_and_logits():
    """By gloo here, which has the same collectives; the parts of the vocabulary are unequal."""
    ranks, rows, vocabulary, store = 3, 2, 40, HashStore()
    logits = torch.randn(rows, vocabulary)
    words = torch.arange(ranks * 4)
    gathered = {}

    def gather(rank):
        inbox, whole = torch.zeros(2, 50, dtype=torch.int64), torch.zeros(5, vocabulary)
        own = vocabulary_of(vocabulary, ranks, rank)
        inbox[0, 4 * rank : 4 * rank + 4] = words[4 * rank : 4 * rank + 4]
        view = SimpleNamespace(whole_logits=whole)
        parts = gathered_parts(inbox[1], Layout(50, rows, vocabulary, 7), ranks)
        parts[rank][:6] = rank
        memory = SimpleNamespace(inbox=inbox, view=view, gathered=parts)
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        group = ProcessGroupGloo(store, rank, ranks, options)
        gatherer = NcclGatherer(Team(rank, ranks), memory, group)
        gatherer.gather_words(4)
        gatherer.gather_logits(logits[:, own].contiguous())
        gatherer.gather_parts(6)
        gathered[rank] = inbox[0, : ranks * 4], whole[:rows], torch.stack(parts)

    threads = [threading.Thread(target=gather, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(ranks):
        assert torch.equal(gathered[rank][0], words)
        assert torch.equal(gathered[rank][1], logits)
        assert gathered[rank][2].tolist() == [[float(of)] * 6 + [0] for of in range(ranks)]


def test_pods_that_would_share_a_stage_are_refused_on_gpus():
    group = GroupConfig(pipeline=2, tensor=2, pods=4, rendezvous="pod-0:8001")
    config = EngineConfig("", device="cuda", group=group)
    with pytest.raises(StartError, match=r"--pods 4 does not divide --pipeline 2.* --pods 1 or 2"):
        prepare_gpu(RandomCheckpoint(CONFIG), config, 0)
