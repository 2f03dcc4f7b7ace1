"""Time of a whole prompt, and of its attention alone, beside limits measured in the same run.

    python -m benchmarks.prefill --shape llama-2-7b --tokens 2048 --lengths 1024,4096,8192

The limit of a prompt is the time of its matrix products alone in bf16, by torch (cuBLAS), each
layer with its own weights; the peer of attention is torch's scaled_dot_product_attention.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

import torch
from openinference_engine.config import ModelConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.prefill import Prefill, chunks_of
from torch import Tensor

from benchmarks.kernels import replay_of
from benchmarks.limits import seconds_of
from benchmarks.shapes import DENSE_SHAPES, random_llama

_PAGE = 16


def random_pages(count: int) -> list[int]:
    pages: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return pages


def matrices_seconds(config: ModelConfig, tokens: int, device: torch.device) -> float:
    """All layers' matrix products of `tokens` rows, in bf16, without anything between them."""
    query = config.num_heads * config.head_dim
    key = config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [(query + 2 * key, hidden), (hidden, query), (2 * inner, hidden), (hidden, inner)]

    def normal(*shape: int) -> Tensor:
        values = torch.empty(*shape, dtype=torch.bfloat16, device=device)
        return values.normal_(0, shape[-1] ** -0.5)

    products = [
        (normal(tokens, columns), normal(rows, columns), normal(tokens, rows))
        for _ in range(config.num_layers)
        for rows, columns in shapes
    ]

    def multiply(_: Any) -> None:
        for x, weights, out in products:
            torch.mm(x, weights.T, out=out)

    graph = torch.cuda.CUDAGraph()
    multiply(None)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        multiply(None)
    return seconds_of(graph.replay, device)


def attention_seconds(
    kernels: ModuleType, config: ModelConfig, length: int, device: torch.device
) -> tuple[float, float]:
    """Of one layer over a prompt of `length` tokens: ours on scattered pages, then torch's."""
    dim = config.head_dim
    query = torch.randn(length, config.num_heads, dim, dtype=torch.bfloat16, device=device)
    keys = torch.randn(length, config.num_kv_heads, dim, dtype=torch.bfloat16, device=device)
    values, out = torch.randn_like(keys), torch.empty_like(query)
    pages = torch.tensor([random_pages(length // _PAGE)], dtype=torch.int32, device=device)
    starts = torch.tensor([0, length], dtype=torch.int32, device=device)
    lengths = torch.tensor([length], dtype=torch.int32, device=device)

    def attend(stream: Any) -> None:
        kernels.attend_prefill(
            query, keys, values, starts, lengths, pages, length, dim**-0.5, 1 << 30, out, stream
        )

    dense = [tensor.transpose(0, 1)[None] for tensor in (query, keys, values)]

    def peer() -> None:
        torch.nn.functional.scaled_dot_product_attention(*dense, is_causal=True, enable_gqa=True)

    ours = seconds_of(replay_of(kernels, attend, True), device)
    return ours, seconds_of(peer, device)


def prompt_seconds(
    kernels: ModuleType,
    config: ModelConfig,
    tokens: int,
    weights: LlamaWeights,
    device: torch.device,
) -> float:
    cache = KVCache(config, tokens // _PAGE, device)
    prefill = Prefill(kernels, weights, config, cache, tokens)
    ids = torch.randint(0, config.vocab_size, (tokens,)).tolist()
    chunks = chunks_of([(ids, 0, random_pages(tokens // _PAGE))], device)
    replay = replay_of(kernels, lambda stream: prefill.queue(chunks, stream), True)
    return seconds_of(replay, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=DENSE_SHAPES, default="llama-2-7b")
    parser.add_argument("--weights", default="bfloat16", help="comma-separated: bfloat16,fp8,int4")
    parser.add_argument("--tokens", type=int, default=2048, help="of the whole prompt")
    parser.add_argument("--lengths", default="1024,2048,4096,8192", help="of attention alone")
    options = parser.parse_args()

    kernels, device, config = load_kernels(), torch.device("cuda"), DENSE_SHAPES[options.shape]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.shape}")
    for length in map(int, options.lengths.split(",")):
        ours, peer = attention_seconds(kernels, config, length, device)
        work = 2 * length**2 * config.num_heads * config.head_dim  # half of the square is masked
        print(
            f"attention {length:6}: {ours * 1e6:8.1f} us {work / ours / 1e12:6.1f} TFLOP/s, "
            f"{peer / ours:.2f} of torch's speed"
        )
    limit = matrices_seconds(config, options.tokens, device)
    print(f"matrix products of {options.tokens} tokens in bf16: {limit * 1e3:.2f} ms")
    for name in options.weights.split(","):
        weights = random_llama(config, options.tokens, device, name)
        seconds = prompt_seconds(kernels, config, options.tokens, weights, device)
        print(
            f"whole prompt, {name:8}: {seconds * 1e3:7.2f} ms, {options.tokens / seconds:7.0f} "
            f"tok/s, {seconds / limit:.2f} of the limit"
        )
        del weights
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
