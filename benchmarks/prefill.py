"""Time of a whole prompt, and of its attention alone, beside limits measured in the same run.

    python -m benchmarks.prefill --shape llama-2-7b --kv int8,int8-int4 --lengths 1024,4096,8192

The limit of a prompt is the time of its matrix products alone in bf16, by torch (cuBLAS), each
layer with its own weights. Of a mixture of experts it is the longer of two: its products at
cuBLAS's speed, or what they read, all experts of a long prompt, at the speed of a copy. The peer
of attention is torch's scaled_dot_product_attention. Of codes of keys and values, attention is
what it takes to read them, with what makes bf16 of them.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Any

import msgspec
import torch
from openinference_engine.chunks import Chunks, Parts, chunks_of
from openinference_engine.coded_kernels import activations_of, with_activations
from openinference_engine.config import ActivationChoice, ModelConfig, WeightFormat
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.expert_weights import expert_elements, router_elements
from openinference_engine.kv_formats import CODED_FORMATS, CUDA_FORMATS, KVCacheDtype
from openinference_engine.llama_weights import LlamaWeights
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.prefill import Prefill
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.row_attention import RowAttention
from openinference_engine.weight_sizes import layer_bytes
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.kernels import replay_of
from benchmarks.limits import copy_bytes_per_second, seconds_of
from benchmarks.shapes import SHAPES, random_llama, visited_experts

_PAGE = 16


def random_pages(count: int) -> list[int]:
    pages: list[int] = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    return pages


def limit_seconds(
    config: ModelConfig, tokens: int, weight_format: WeightFormat, device: torch.device
) -> float:
    """Of a mixture's prompt, by what it computes and what it reads."""
    experts = config.experts
    assert experts is not None
    size = 8192
    square = torch.empty(size, size, dtype=torch.bfloat16, device=device).normal_()
    rate = 2 * size**3 / seconds_of(lambda: torch.mm(square, square), device)
    multiplied = sum(rows * columns for rows, columns in _attention_shapes(config))
    multiplied += router_elements(config.hidden_size, experts)
    multiplied += experts.per_token * expert_elements(config.hidden_size, experts)
    read = layer_bytes(config, weight_format, visited_experts(config, tokens))
    bandwidth = copy_bytes_per_second(device, 1 << 32)
    return config.num_layers * max(2 * multiplied * tokens / rate, read / bandwidth)


def _attention_shapes(config: ModelConfig) -> list[tuple[int, int]]:
    query, key = (heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads))
    return [(query + 2 * key, config.hidden_size), (config.hidden_size, query)]


def matrices_seconds(config: ModelConfig, tokens: int, device: torch.device) -> float:
    """All layers' matrix products of `tokens` rows, in bf16, without anything between them."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = [*_attention_shapes(config), (2 * inner, hidden), (hidden, inner)]

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
    kernels: ModuleType, config: ModelConfig, kv: KVCacheDtype, length: int, device: torch.device
) -> float:
    """Of one layer over a prompt of `length` tokens, from scattered pages that hold its keys."""
    layer = msgspec.structs.replace(config, num_layers=1)
    cache = KVCache(layer, length // _PAGE, device, CUDA_FORMATS[kv])
    parts: Parts = [([0] * length, 0, random_pages(length // _PAGE))]
    chunks = chunks_of(parts, device, length // _PAGE if CUDA_FORMATS[kv].is_coded else None)
    fill(kernels, layer, cache, chunks)
    attention = attention_of(kernels, layer, cache, length)
    query = random_heads(length, config.num_heads, config.head_dim, device)
    out = torch.empty_like(query)

    def attend(stream: Any) -> None:
        attention.queue(0, chunks, query, out, stream)

    return seconds_of(replay_of(kernels, attend, True), device)


def attention_of(
    kernels: ModuleType, config: ModelConfig, cache: KVCache, length: int
) -> PromptAttention:
    device = cache.keys[0].device
    rows = RowAttention(kernels, config, device, kernels.multiprocessor_count())
    return PromptAttention(kernels, cache, rows, length // _PAGE)


def fill(kernels: ModuleType, config: ModelConfig, cache: KVCache, chunks: Chunks) -> None:
    """The only layer of the cache, with random vectors at the chunks' positions."""
    length, heads = len(chunks.tokens), (config.num_kv_heads, config.head_dim)
    device = chunks.tokens.device
    keys, values = (random_heads(length, *heads, device) for _ in range(2))
    if cache.is_coded:
        stream = kernels.Stream(torch.cuda.current_stream().cuda_stream, False)
        places = chunks.positions, chunks.row_pages
        kernels.append_codes(keys, values, *places, *cache.layer(0), stream)
        return
    for vectors, layer in zip((keys, values), cache.layer(0), strict=True):
        layer.copy_(vectors)


def torch_seconds(config: ModelConfig, length: int, device: torch.device) -> float:
    """The same by torch, keys and values in bf16 and in order."""
    query, key, value = (
        random_heads(length, heads, config.head_dim, device).transpose(0, 1)[None]
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )

    def attend() -> None:
        scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

    return seconds_of(attend, device)


def random_heads(length: int, heads: int, head_dim: int, device: torch.device) -> Tensor:
    return torch.randn(length, heads, head_dim, dtype=torch.bfloat16, device=device)


def prompt_seconds(
    kernels: ModuleType,
    config: ModelConfig,
    kv: KVCacheDtype,
    tokens: int,
    weights: LlamaWeights,
    device: torch.device,
) -> float:
    cache = KVCache(config, tokens // _PAGE, device, CUDA_FORMATS[kv])
    attention = attention_of(kernels, config, cache, tokens)
    prefill = Prefill(kernels, weights, config, cache, attention, tokens)
    ids = torch.randint(0, config.vocab_size, (tokens,)).tolist()
    chunks = prefill.chunks_of([(ids, 0, random_pages(tokens // _PAGE))])

    def queue(stream: Any) -> None:
        prefill.queue(chunks, stream)

    return seconds_of(replay_of(kernels, queue, True), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--weights", default="bfloat16", help="comma-separated: bfloat16,fp8,int4")
    parser.add_argument("--kv", default="", help="beside bf16: fp8,int8,int8-int4,int4")
    parser.add_argument("--tokens", type=int, default=2048, help="of the whole prompt")
    parser.add_argument("--lengths", default="1024,2048,4096,8192", help="of attention alone")
    options = parser.parse_args()

    kernels, device, config = load_kernels(), torch.device("cuda"), SHAPES[options.shape]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {options.shape}")
    kinds: list[KVCacheDtype] = [
        "auto",
        *(kv for kv in CODED_FORMATS if kv in options.kv.split(",")),
    ]
    for length in map(int, options.lengths.split(",")):
        peer = torch_seconds(config, length, device)
        work = 2 * length**2 * config.num_heads * config.head_dim  # half of the square is masked
        for kv in kinds:
            seconds = attention_seconds(kernels, config, kv, length, device)
            print(
                f"attention {length:6}, {kv:9}: {seconds * 1e6:8.1f} us "
                f"{work / seconds / 1e12:6.1f} TFLOP/s, {peer / seconds:.2f} of torch's speed"
            )
    limit = 0.0
    if config.experts is None:
        limit = matrices_seconds(config, options.tokens, device)
        print(f"matrix products of {options.tokens} tokens in bf16: {limit * 1e3:.2f} ms")
    for name in options.weights.split(","):
        if config.experts is not None:
            limit = limit_seconds(config, options.tokens, name, device)
            print(f"products and reads of {options.tokens} tokens: {limit * 1e3:.2f} ms")
        weights = random_llama(config, options.tokens, device, name)
        ways: list[tuple[ActivationChoice, KVCacheDtype]] = [("auto", kv) for kv in kinds]
        if coded := activations_of(name):
            ways.append((coded, "auto"))
        for activations, kv in ways:
            own = with_activations(kernels, activations, config, options.tokens, device)
            seconds = prompt_seconds(own, config, kv, options.tokens, weights, device)
            print(
                f"whole prompt, {name:8}, activations {activations:4}, {kv:9}: "
                f"{seconds * 1e3:7.2f} ms, {options.tokens / seconds:7.0f} tok/s, "
                f"{seconds / limit:.2f} of the limit"
            )
        del weights
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
