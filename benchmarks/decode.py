"""Decode speed through the whole engine loop: scheduler, runner, kernels, tokens read back.

    python -m benchmarks.decode --shape llama-2-7b --weights bfloat16 --batch 1,8,32
    python -m benchmarks.decode --shape qwen3-30b-a3b --batch 1,8,32

Every sequence gets a random prompt and decodes greedily. Counted are the steps in which all of
them decode, from one commit to the next; in a pipeline, where each step has some of them, those
of the time in which all do. Beside tok/s: its ratio to the peer (vLLM 0.26 on an H100: a ratio to
compare only on that GPU) and the share of the copy bandwidth of this run that reading weights and
cache once explains; of experts, those that as many tokens visit by chance. Of a group of ranks,
tokens of prompts are counted as well, in the steps that have no others.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from openinference_engine.backend import Capacity
from openinference_engine.blocks import BlockPool
from openinference_engine.coded_kernels import with_activations
from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ranks.cuda_group import CudaGroup
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Scheduler
from openinference_engine.step import Step

from benchmarks.decode_options import (
    batches_of,
    engine_config,
    group_of,
    model_of,
    num_blocks_of,
    parse_options,
    rules_of,
)
from benchmarks.gpu_group import Meeting, group_runner
from benchmarks.limits import copy_bytes_per_second
from benchmarks.peers import tokens_per_second
from benchmarks.shapes import random_llama, step_bytes
from benchmarks.trace import device_time, waiting_for_tokens


@dataclass(slots=True)
class Speed:
    """Of steps that were counted; `waited`: seconds of them in which the host had nothing to do
    but to wait for tokens. `prompt_seconds`: of the steps that had nothing but prompts.
    """

    num_tokens: int = 0
    num_steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    prompt_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def host_milliseconds(self) -> float:
        return (self.seconds - self.waited) / self.num_steps * 1e3

    def count_decodes(self, step: Step, seconds: float, waited: float) -> None:
        self.num_tokens += step.num_decodes
        self.num_steps += 1
        self.seconds += seconds
        self.waited += waited

    def count_prompts(self, step: Step, seconds: float) -> None:
        self.num_prompt_tokens += step.num_tokens
        self.prompt_seconds += seconds


def measure(
    runner: CudaRunner | CudaGroup,
    config: ModelConfig,
    num_blocks: int,
    batch: int,
    prompt: int,
    output: int,
    rules: dict[str, Any] | None = None,
) -> Speed:
    """`rules`: of SamplingParams, for tokens that are not the likeliest ones."""
    likeliest: dict[str, Any] = {"seed": 0, "max_tokens": output, "temperature": 0}
    params = SamplingParams(**likeliest | (rules or {}))
    scheduler = filled_scheduler(config, num_blocks, batch, prompt, params, num_stages(runner))
    speed = Speed()
    under_way: deque[Step] = deque()
    with waiting_for_tokens() as waiting:
        started = time.perf_counter()
        while scheduler.num_running or scheduler.num_waiting or under_way:
            step = scheduler.schedule(batch * prompt)
            if step.chunks:
                runner.begin(step)
                under_way.append(step)
                if len(under_way) < num_stages(runner):
                    continue
            all_decode = scheduler.num_running == batch and all(map(_only_decodes, under_way))
            oldest = under_way.popleft()
            scheduler.commit(oldest, runner.finish())
            ended = time.perf_counter()
            if all_decode:
                speed.count_decodes(oldest, ended - started, waiting.seconds)
            elif not oldest.num_decodes:
                speed.count_prompts(oldest, ended - started)
            started, waiting.seconds = ended, 0.0
    speed.num_preemptions = scheduler.num_preemptions
    return speed


def filled_scheduler(
    config: ModelConfig,
    num_blocks: int,
    batch: int,
    prompt: int,
    params: SamplingParams,
    stages: int,
) -> Scheduler:
    """With a request of random tokens for each of the batch."""
    scheduler = Scheduler(
        BlockPool(num_blocks, PAGE_TOKENS), batch, caches_prefixes=False, looks_ahead=True,
        steps_under_way=stages,
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    for index in range(batch):
        ids = torch.randint(0, config.vocab_size, (prompt,), generator=random).tolist()
        scheduler.add(Request(str(index), ids, params))
    return scheduler


def num_stages(runner: CudaRunner | CudaGroup) -> int:
    return runner.num_stages if isinstance(runner, CudaGroup) else 1


def _only_decodes(step: Step) -> bool:
    return step.num_decodes == len(step.chunks)


def build_runner(
    options: argparse.Namespace, model: ModelConfig, config: EngineConfig, num_blocks: int
) -> CudaRunner | CudaGroup:
    """Of one GPU, or of rank 0's group; another rank serves its group, and ends with it."""
    length = options.prompt + options.output
    if (group := group_of(options)).num_ranks > 1:
        meeting = Meeting(group, options.rank, options.rendezvous, options.nccl)
        return group_runner(model, config, Capacity(length, num_blocks - 1), meeting)
    device = torch.device("cuda")
    kernels = with_activations(load_kernels(), config.activations, model, MAX_ROWS, device)
    cache = KVCache(model, num_blocks, device, CUDA_FORMATS[options.kv])
    weights = random_llama(model, length, device, options.weights)
    decoder = Decoder(
        kernels, weights, model, cache, -(-length // PAGE_TOKENS), config.is_deterministic
    )
    return CudaRunner(
        kernels, decoder, uses_graphs=config.uses_graphs, overlaps=config.overlaps_kernels,
        runs_ahead=config.runs_ahead,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Benchmark:
    """limit: bytes that all GPUs together copy in a second."""

    options: argparse.Namespace
    model: ModelConfig
    runner: CudaRunner | CudaGroup
    num_blocks: int
    limit: float

    def report(self, batch: int) -> None:
        self._run(batch, 4)  # captures the graphs
        speed = self._run(batch, self.options.output)
        if speed.num_preemptions:
            print(f"b{batch}: does not fit, {speed.num_preemptions} preemptions")
            return
        group, shape = group_of(self.options), self.options.shape
        peer = tokens_per_second(group, shape, self.options.weights, batch)
        print(f"b{batch}: {describe(speed, self._floor_seconds(batch), peer)}")
        if isinstance(self.runner, CudaGroup):  # one GPU's has no kernels for prompts here
            print(f"    prompts {speed.num_prompt_tokens / speed.prompt_seconds:.0f} tok/s")
        if self.options.trace:
            self._report_trace(batch)

    def _run(self, batch: int, output: int) -> Speed:
        prompt, rules = self.options.prompt, rules_of(self.options)
        return measure(self.runner, self.model, self.num_blocks, batch, prompt, output, rules)

    def _floor_seconds(self, batch: int) -> float:
        """Of a step in which all that it must read is read once."""
        rows = -(-batch // num_stages(self.runner))
        context = self.options.prompt + self.options.output // 2
        formats = self.options.weights, CUDA_FORMATS[self.options.kv]
        return step_bytes(self.model, rows, context, *formats) / self.limit

    def _report_trace(self, batch: int) -> None:
        traced = device_time(partial(self._run, batch, 96))
        longest = ", ".join(f"{gap:.1f}" for gap in traced.gaps[:5])
        print(f"    device idle {traced.idle_share:.2%} of the time; longest gaps {longest} us")
        print(traced.table())


def describe(speed: Speed, floor: float, peer: int | None) -> str:
    """floor: seconds of a step in which all that it must read is read once."""
    step = speed.seconds / speed.num_steps
    return (
        f"{speed.tokens_per_second:.0f} tok/s, step {step * 1e3:.3f} ms, "
        f"{floor / step:.0%} of the copy bandwidth"
        + (f", {speed.tokens_per_second / peer:.2f} of the peer" if peer else "")
        + f", host {speed.host_milliseconds:.3f} ms a step"
    )


def main() -> None:
    options = parse_options(__doc__.splitlines()[0])
    model, batches = model_of(options), batches_of(options)
    num_blocks = num_blocks_of(options, model)
    runner = build_runner(options, model, engine_config(options, max(batches)), num_blocks)
    limit = copy_bytes_per_second(torch.device("cuda"), 1 << 33) * group_of(options).num_ranks
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"copy {limit / 1e12:.2f} TB/s of all GPUs"
    )
    print({name: value for name, value in vars(options).items() if value})
    benchmark = Benchmark(options, model, runner, num_blocks, limit)
    for batch in batches:
        benchmark.report(batch)
    if isinstance(runner, CudaGroup):
        sys.stdout.flush()
        os._exit(0)  # the end of NCCL's group would wait for ranks that end with this process


if __name__ == "__main__":
    main()
