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
from typing import Any, get_args

import msgspec
import torch
from openinference_engine.backend import Capacity
from openinference_engine.blocks import BlockPool
from openinference_engine.coded_kernels import with_activations
from openinference_engine.config import ActivationChoice, EngineConfig, GroupConfig, ModelConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.llama_weights import WEIGHT_FORMATS
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ranks.cuda_group import CudaGroup
from openinference_engine.request import Request, SamplingParams
from openinference_engine.scheduler import Scheduler, Step

from benchmarks.gpu_group import Meeting, group_runner
from benchmarks.limits import copy_bytes_per_second
from benchmarks.peers import tokens_per_second
from benchmarks.shapes import SHAPES, random_llama, step_bytes
from benchmarks.trace import device_time, waiting_for_tokens


@dataclass(frozen=True, slots=True)
class Speed:
    num_tokens: int
    num_steps: int
    seconds: float
    waited: float  # seconds of them in which the host had nothing to do but to wait for tokens
    num_preemptions: int
    num_prompt_tokens: int
    prompt_seconds: float  # of the steps that had nothing but prompts

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def host_milliseconds(self) -> float:
        return (self.seconds - self.waited) / self.num_steps * 1e3


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
    pool, stages = BlockPool(num_blocks, PAGE_TOKENS), num_stages(runner)
    scheduler = Scheduler(
        pool, batch, caches_prefixes=False, looks_ahead=True, steps_under_way=stages
    )
    random = torch.Generator().manual_seed(0)
    likeliest: dict[str, Any] = {"seed": 0, "max_tokens": output, "temperature": 0}
    params = SamplingParams(**likeliest | (rules or {}))
    for index in range(batch):
        ids = torch.randint(0, config.vocab_size, (prompt,), generator=random).tolist()
        scheduler.add(Request(str(index), ids, params))
    num_tokens, num_steps, seconds, waited = 0, 0, 0.0, 0.0
    num_prompt_tokens, prompt_seconds = 0, 0.0
    under_way: deque[Step] = deque()
    with waiting_for_tokens() as waiting:
        started = time.perf_counter()
        while scheduler.num_running or scheduler.num_waiting or under_way:
            step = scheduler.schedule(batch * prompt)
            if step.chunks:
                runner.begin(step)
                under_way.append(step)
                if len(under_way) < stages:
                    continue
            all_decode = scheduler.num_running == batch and all(map(_only_decodes, under_way))
            oldest = under_way.popleft()
            scheduler.commit(oldest, runner.finish())
            ended = time.perf_counter()
            if all_decode:
                num_tokens += oldest.num_decodes
                num_steps += 1
                seconds += ended - started
                waited += waiting.seconds
            elif not oldest.num_decodes:
                num_prompt_tokens += oldest.num_tokens
                prompt_seconds += ended - started
            started, waiting.seconds = ended, 0.0
    return Speed(
        num_tokens, num_steps, seconds, waited, scheduler.num_preemptions,
        num_prompt_tokens, prompt_seconds,
    )  # fmt: skip


def num_stages(runner: CudaRunner | CudaGroup) -> int:
    return runner.num_stages if isinstance(runner, CudaGroup) else 1


def _only_decodes(step: Step) -> bool:
    return step.num_decodes == len(step.chunks)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--layers", type=int, help="fewer than the shape has: a shorter step")
    parser.add_argument("--weights", choices=WEIGHT_FORMATS, default="bfloat16")
    parser.add_argument("--activations", choices=get_args(ActivationChoice), default="auto")
    parser.add_argument("--kv", choices=CUDA_FORMATS, default="auto", help="auto: bfloat16")
    parser.add_argument("--cache-gib", type=float, help="of keys and values, at most")
    parser.add_argument("--batch", default="1,8,32", help="comma-separated, at most 128 each")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--output", type=int, default=256)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--no-overlap", action="store_true", help="no programmatic launches")
    parser.add_argument("--no-run-ahead", action="store_true", help="read tokens before launching")
    parser.add_argument(
        "--sampled", action="store_true", help="temperature 0.8, top-p 0.9, top-k 40"
    )
    parser.add_argument("--logprobs", type=int, help="of so many of the likeliest tokens, too")
    parser.add_argument("--deterministic", action="store_true", help="the same bits in every batch")
    parser.add_argument(
        "--trace", action="store_true", help="how long the device is idle, by CUPTI"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="ranks, a GPU for each")
    parser.add_argument(
        "--expert-parallel", type=int, default=1, help="parts of whole experts, which ranks by "
        "--tensor-parallel cut; all else is cut by both"
    )  # fmt: skip
    parser.add_argument("--pipeline-parallel", type=int, default=1, help="stages, a GPU for each")
    parser.add_argument("--nccl", action="store_true", help="ranks do not map each other's memory")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--rendezvous", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.activations != "auto" and group_of(options).num_ranks > 1:
        parser.error("--activations is for one GPU")
    return options


def group_of(options: argparse.Namespace) -> GroupConfig:
    return GroupConfig(options.pipeline_parallel, options.tensor_parallel, options.expert_parallel)


def model_of(options: argparse.Namespace) -> ModelConfig:
    shape = SHAPES[options.shape]
    return msgspec.structs.replace(shape, num_layers=options.layers or shape.num_layers)


def engine_config(options: argparse.Namespace, max_sequences: int) -> EngineConfig:
    return EngineConfig(
        "", device="cuda", weights=options.weights, activations=options.activations,
        kv_cache_dtype=options.kv,
        max_sequences=max_sequences, is_deterministic=options.deterministic,
        uses_graphs=not options.eager, overlaps_kernels=not options.no_overlap,
        runs_ahead=not options.no_run_ahead,
    )  # fmt: skip


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


def main() -> None:
    options = parse_options()
    model, cache_format = model_of(options), CUDA_FORMATS[options.kv]
    batches = [int(batch) for batch in options.batch.split(",")]
    num_blocks = max(batches) * -(-(options.prompt + options.output) // PAGE_TOKENS)
    if options.cache_gib:
        block_bytes = PAGE_TOKENS * model.kv_bytes_per_token(cache_format)
        num_blocks = min(num_blocks, int(options.cache_gib * 2**30) // block_bytes)
    rules = {"temperature": 0.8, "top_p": 0.9, "top_k": 40} if options.sampled else {}
    rules |= {"num_logprobs": options.logprobs}
    runner = build_runner(options, model, engine_config(options, max(batches)), num_blocks)
    limit = copy_bytes_per_second(torch.device("cuda"), 1 << 33)
    limit *= group_of(options).num_ranks
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, "
        f"copy {limit / 1e12:.2f} TB/s of all GPUs"
    )
    print({name: value for name, value in vars(options).items() if value})

    def run(batch: int, output: int) -> Speed:
        return measure(runner, model, num_blocks, batch, options.prompt, output, rules)

    for batch in batches:
        run(batch, 4)  # captures the graphs
        speed = run(batch, options.output)
        if speed.num_preemptions:
            print(f"b{batch}: does not fit, {speed.num_preemptions} preemptions")
            continue
        rows = -(-batch // num_stages(runner))
        context = options.prompt + options.output // 2
        floor = step_bytes(model, rows, context, options.weights, cache_format) / limit
        peer = tokens_per_second(group_of(options), options.shape, options.weights, batch)
        print(f"b{batch}: {describe(speed, floor, peer)}")
        if isinstance(runner, CudaGroup):  # one GPU's runner has no kernels for prompts here
            print(f"    prompts {speed.num_prompt_tokens / speed.prompt_seconds:.0f} tok/s")
        if options.trace:
            traced = device_time(partial(run, batch, 96))
            longest = ", ".join(f"{gap:.1f}" for gap in traced.gaps[:5])
            print(f"    device idle {traced.idle_share:.2%} of the time; longest gaps {longest} us")
    if isinstance(runner, CudaGroup):
        sys.stdout.flush()
        os._exit(0)  # the end of NCCL's group would wait for ranks that end with this process


def describe(speed: Speed, floor: float, peer: int | None) -> str:
    """floor: seconds of a step in which all that it must read is read once."""
    step = speed.seconds / speed.num_steps
    return (
        f"{speed.tokens_per_second:.0f} tok/s, step {step * 1e3:.3f} ms, "
        f"{floor / step:.0%} of the copy bandwidth"
        + (f", {speed.tokens_per_second / peer:.2f} of the peer" if peer else "")
        + f", host {speed.host_milliseconds:.3f} ms a step"
    )


if __name__ == "__main__":
    main()
