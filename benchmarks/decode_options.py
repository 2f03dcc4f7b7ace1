"""What `benchmarks.decode` is asked: a shape, formats, batches, and how ranks share the model."""

from __future__ import annotations

import argparse
from typing import Any, get_args

import msgspec
from openinference_engine.config import ActivationChoice, EngineConfig, GroupConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CUDA_FORMATS
from openinference_engine.llama_weights import WEIGHT_FORMATS, column_multiple
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ranks.sharing import check_sharing

from benchmarks.shapes import SHAPES


def parse_options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
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
        "--trace", action="store_true", help="what kernels and waiting take, by CUPTI"
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
    try:
        check_sharing(model_of(options), group_of(options), column_multiple(options.weights))
    except StartError as error:
        parser.error(str(error))
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


def batches_of(options: argparse.Namespace) -> list[int]:
    return [int(batch) for batch in options.batch.split(",")]


def num_blocks_of(options: argparse.Namespace, model: ModelConfig) -> int:
    """Of the cache: for the largest batch, if there is room."""
    length: int = options.prompt + options.output
    num_blocks = max(batches_of(options)) * -(-length // PAGE_TOKENS)
    if not options.cache_gib:
        return num_blocks
    block_bytes = PAGE_TOKENS * model.kv_bytes_per_token(CUDA_FORMATS[options.kv])
    return min(num_blocks, int(options.cache_gib * 2**30) // block_bytes)


def rules_of(options: argparse.Namespace) -> dict[str, Any]:
    """Of SamplingParams, beside those by which the likeliest token is taken."""
    sampled = {"temperature": 0.8, "top_p": 0.9, "top_k": 40} if options.sampled else {}
    return {"num_logprobs": options.logprobs, **sampled}
