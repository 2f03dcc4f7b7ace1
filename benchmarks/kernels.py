"""Time of each decode kernel alone: microseconds, TB/s and share of the run's copy bandwidth.

    python -m benchmarks.kernels --shape llama-2-7b --rows 1,8,32 --context 256

Each op runs over the weights or caches of all layers in turn, so nothing it reads is in the L2
cache, as one CUDA graph; the time is that of the graph divided by the number of layers.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, get_args

import torch
from msgspec.structs import replace
from openinference_engine.coded_kernels import with_activations
from openinference_engine.config import ActivationChoice, WeightFormat
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.expert_weights import router_elements
from openinference_engine.kv_formats import BFLOAT16, CUDA_FORMATS, CacheFormat
from openinference_engine.llama_weights import WEIGHT_FORMATS
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.weight_sizes import feed_forward_bytes, head_bytes, matrix_bytes

from benchmarks.limits import copy_bytes_per_second, seconds_of
from benchmarks.shapes import SHAPES, random_llama, step_bytes, visited_experts

_MIN_READ_BYTES = 1 << 28  # several times the L2 cache, for the op that runs once a step


@dataclass(frozen=True, slots=True)
class Case:
    """An op queued `calls` times over different weights, and what one call must read."""

    name: str
    queue: Callable[[Any], None]
    calls: int
    num_bytes: int


def cases(
    decoder: Decoder,
    rows: int,
    context: int,
    weight_format: WeightFormat = "bfloat16",
    cache_format: CacheFormat = BFLOAT16,
) -> list[Case]:
    """The kernels of one step, for `rows` sequences of `context` positions each."""
    config = decoder.config
    seen = min(context, config.window or context)
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key = config.num_heads * head_dim, config.num_kv_heads * head_dim
    read_by_head = head_bytes(config, weight_format)
    read_per_position = config.num_kv_heads * cache_format.head_bytes(head_dim)
    head_calls = math.ceil(_MIN_READ_BYTES / read_by_head)

    def per_layer(op: Callable[[int, int, Any], None], num_bytes: int) -> Case:
        def queue(stream: Any) -> None:
            for layer in range(config.num_layers):
                op(layer, rows, stream)

        return Case(op.__name__, queue, config.num_layers, num_bytes)

    def matrix(op: Callable[[int, int, Any], None], elements: int) -> Case:
        return per_layer(op, matrix_bytes(elements, weight_format))

    def queue_head(stream: Any) -> None:
        for _ in range(head_calls):
            decoder.choose_token(rows, stream)

    if config.experts is None:
        feed_forward = [
            matrix(decoder.project_gate_up, 2 * inner * hidden),
            matrix(decoder.project_down, hidden * inner),
        ]
    else:
        feed_forward = _expert_cases(decoder, rows, weight_format)
    return [
        matrix(decoder.project_qkv, (query + 2 * key) * hidden),
        per_layer(decoder.attend, rows * seen * read_per_position),
        matrix(decoder.project_output, hidden * query),
        *feed_forward,
        Case("choose_token", queue_head, head_calls, read_by_head),
        Case(
            "whole step",
            lambda stream: decoder.queue(rows, stream),
            1,
            step_bytes(config, rows, seen, weight_format, cache_format),
        ),
    ]


def _expert_cases(decoder: Decoder, rows: int, weight_format: WeightFormat) -> list[Case]:
    """Of a mixture's ops, by the experts that the last routing of as many rows sent them to."""
    config, mixture = decoder.config, decoder.mixture
    assert config.experts is not None
    assert mixture is not None
    ops = decoder.expert_ops(mixture, 0, rows)
    router = matrix_bytes(router_elements(config.hidden_size, config.experts), "bfloat16")
    visits = mixture.visits[: rows * config.experts.per_token]
    visited = len(set(visits[visits[:, 3] > 0, 0].tolist())) or visited_experts(config, rows)
    read = feed_forward_bytes(config, weight_format, visited) - router
    num_bytes = {"project": router, "expert_gate_up": read - read // 3, "expert_sum": read // 3}

    def case(name: str) -> Case:
        def queue(stream: Any) -> None:
            for layer in range(config.num_layers):
                decoder.expert_ops(mixture, layer, rows)[name](stream)

        return Case(name, queue, config.num_layers, num_bytes.get(name, 0))

    return list(map(case, ops))


def choose_at_random(decoder: Decoder, rows: int, stream: Any) -> None:
    """Sends the rows to seeded random experts, whom a mixture's ops then visit in every layer."""
    if (mixture := decoder.mixture) is None:
        return
    random = torch.Generator(mixture.logits.device).manual_seed(0)
    mixture.logits[:rows].normal_(generator=random)
    decoder.expert_ops(mixture, 0, rows)["route"](stream)


def place_sequences(decoder: Decoder, rows: int, context: int) -> None:
    """Gives each row `context` positions on pages scattered over the cache."""
    pages = math.ceil(context / 16)
    order = torch.randperm(rows * pages, generator=torch.Generator().manual_seed(0))
    decoder.inputs.tokens[:rows] = torch.arange(rows) * 37 % decoder.config.vocab_size
    decoder.inputs.positions[:rows] = context - 1
    decoder.inputs.pages[:rows, :pages] = order.view(rows, pages).int()


def replay_of(
    kernels: ModuleType, queue: Callable[[Any], None], overlaps: bool
) -> Callable[[], None]:
    queue(kernels.Stream(torch.cuda.current_stream().cuda_stream, overlaps))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        queue(kernels.Stream(torch.cuda.current_stream().cuda_stream, overlaps))
    return graph.replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--weights", choices=WEIGHT_FORMATS, default="bfloat16")
    parser.add_argument("--activations", choices=get_args(ActivationChoice), default="auto")
    parser.add_argument("--kv", choices=CUDA_FORMATS, default="auto", help="auto: bfloat16")
    parser.add_argument("--rows", default="1,8,32", help="comma-separated, at most 128 each")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--window", type=int, help="positions that a token sees; else all of them")
    options = parser.parse_args()

    device, config = torch.device("cuda"), SHAPES[options.shape]
    if options.window is not None:
        config = replace(config, windows=(options.window,) * config.num_layers)
    kernels = with_activations(load_kernels(), options.activations, config, MAX_ROWS, device)
    counts = [int(rows) for rows in options.rows.split(",")]
    pages = math.ceil(options.context / 16) + 16  # each replay of a step moves one position on
    cache_format = CUDA_FORMATS[options.kv]
    cache = KVCache(config, max(counts) * pages, device, cache_format)
    for layer in (*cache.keys, *cache.values):
        layer.view(torch.bfloat16).normal_()  # finite scales, too
    weights = random_llama(config, pages * 16, device, options.weights)
    decoder = Decoder(kernels, weights, config, cache, pages)
    limit = copy_bytes_per_second(device, 1 << 33)

    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {limit / 1e12:.2f} TB/s"
    )
    print(
        f"{options.shape} {options.weights}, activations {options.activations}, keys and values "
        f"{options.kv}, context {options.context}, window {options.window}"
    )
    print("us per call, plain and overlapping; speed of the faster")
    stream = kernels.Stream(torch.cuda.current_stream().cuda_stream, False)
    for rows in counts:
        place_sequences(decoder, rows, options.context)
        choose_at_random(decoder, rows, stream)
        for case in cases(decoder, rows, options.context, options.weights, cache_format):
            times = []
            for overlaps in (False, True):
                place_sequences(decoder, rows, options.context)
                choose_at_random(decoder, rows, stream)
                replay = replay_of(kernels, case.queue, overlaps)
                times.append(seconds_of(replay, device) / case.calls)
            speed = case.num_bytes / min(times)
            print(
                f"rows {rows:3} {case.name:16} {times[0] * 1e6:8.1f} {times[1] * 1e6:8.1f} us "
                f"{speed / 1e12:6.2f} TB/s {speed / limit:5.0%}"
            )


if __name__ == "__main__":
    main()
