"""The backend on this machine's GPU: what it must be able to do, what fits, how a model gets there.

Everything that can be known to fail is refused before weights are read, with the arithmetic.
"""

from __future__ import annotations

import logging
from types import ModuleType

import torch
from msgspec.structs import replace

from openinference_engine.backend import Backend, Capacity, model_length, plan_capacity
from openinference_engine.coded_kernels import (
    check_activations,
    room_bytes,
    with_activations,
)
from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_paths import kernel_path, op_paths, runs_prefill
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.decoder import Decoder
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import BFLOAT16, CUDA_FORMATS
from openinference_engine.llama_weights import (
    WEIGHT_FORMATS,
    WHOLE,
    Extent,
    check_supported,
    load_llama,
)
from openinference_engine.ops.cuda import load_kernels
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.prefill import Prefill, row_bytes
from openinference_engine.prompt_attention import PromptAttention
from openinference_engine.timeline import Timeline
from openinference_engine.weight_sizes import weight_bytes
from openinference_engine.weights.checkpoint import Checkpoint
from openinference_engine.weights.kernel_formats import stored_format
from openinference_engine.weights.loader import Weights

_OLDEST_CAPABILITY = (8, 0)  # bf16 tensor cores, asynchronous copies
_RESERVE_BYTES = 1 << 30  # buffers of a step, captured graphs, packing of one matrix, then its room
_RESERVED_ROWS = 2048  # of a step with prompts, whose buffers that holds
log = logging.getLogger("openinference.core")


def load_cuda_backend(checkpoint: Checkpoint, config: EngineConfig, timeline: Timeline) -> Backend:
    """Raises StartError if this machine or this model cannot do it."""
    kernels, device = load_kernels(), find_gpu()
    if config.weights == "auto":
        config = replace(config, weights=stored_format(checkpoint))
    check_settings(checkpoint.config, config)
    check_products(device, config)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    timeline.end("context")
    spare_bytes = plan_memory(checkpoint.config, config, free_bytes)
    position_bytes = _position_bytes(checkpoint.config, config)
    capacity = plan_capacity(checkpoint.config, config, spare_bytes, spare_bytes, position_bytes)
    runner = _load_runner(checkpoint, config, capacity, kernels, device, timeline)
    timeline.end("buffers")
    fields = {
        "gpu": torch.cuda.get_device_name(device),
        "weights": config.weight_format,
        "activations": config.activations,
        "graphs": config.uses_graphs,
        "overlap": config.overlaps_kernels,
        "run_ahead": config.runs_ahead,
        "deterministic": config.is_deterministic,
        "cache_blocks": capacity.num_blocks,
    }
    log.info("model on GPU", extra={"fields": fields})
    path, paths = kernel_path(device, config), op_paths(kernels, device, config)
    return Backend(runner, capacity, path, paths, runs_ahead=config.runs_ahead)


def find_gpu() -> torch.device:
    """Raises StartError without a GPU that the kernels run on."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # the latter, of a torch without CUDA
        reason = str(error).partition("\n")[0]
        raise StartError(
            f"--device cuda: there is no GPU that this process can use ({reason}); give the pod "
            "nvidia.com/gpu: 1, install a driver that torch knows, or use --device cpu"
        ) from error
    device = torch.device("cuda", torch.cuda.current_device())
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_CAPABILITY:
        raise StartError(
            f"--device cuda: {torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
        )
    return device


def check_settings(model: ModelConfig, config: EngineConfig) -> None:
    """Raises StartError for what the GPU path does not know."""
    if config.dtype not in ("auto", "bfloat16"):
        raise StartError(
            f"--dtype {config.dtype}: a GPU computes in bfloat16; leave it out, or use --device cpu"
        )
    if config.block_size != PAGE_TOKENS:
        raise StartError(
            f"cache blocks of {config.block_size} positions: the CUDA kernels know {PAGE_TOKENS}"
        )
    check_supported(model, config.weight_format)
    check_activations(model, config)


def check_products(device: torch.device, config: EngineConfig) -> None:
    """Raises StartError if the GPU has no products of codes."""
    major, minor = torch.cuda.get_device_capability(device)
    if config.activations != "auto" and major != 9:
        raise StartError(
            f"--activations {config.activations} needs a GPU of compute capability 9.0, and "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}; leave it out"
        )


def plan_memory(
    model: ModelConfig, config: EngineConfig, free_bytes: int, extent: Extent = WHOLE
) -> int:
    """Bytes left for the cache. Raises StartError, with what would fit, if no sequence does."""
    length = model_length(model, config)
    sequence_bytes = length * _sequence_bytes(model, config)
    model_bytes = weight_bytes(model, config.weight_format, length, extent)
    steps_bytes = _steps_bytes(model, config)
    spare_bytes = free_bytes - model_bytes - steps_bytes
    if spare_bytes >= sequence_bytes:
        return spare_bytes - length * _copy_bytes(model, config)
    raise StartError(
        f"--weights {config.weight_format}: the model takes {_gib(model_bytes)}, one sequence of "
        f"--max-model-len {length} {_gib(sequence_bytes)} and the steps {_gib(steps_bytes)}, "
        f"but {_gib(free_bytes)} of the GPU's memory are free; use "
        f"{_remedy(model, config, free_bytes, extent)}"
    )


def _remedy(model: ModelConfig, config: EngineConfig, free_bytes: int, extent: Extent) -> str:
    from openinference_engine.ranks.cuda_part import tensor_that_fits  # which imports this module

    length = model_length(model, config)

    def left_for_cache(asked: EngineConfig) -> int:
        model_bytes = weight_bytes(model, asked.weight_format, length, extent)
        return free_bytes - _steps_bytes(model, asked) - model_bytes

    def fits(asked: EngineConfig) -> bool:
        return length * _sequence_bytes(model, asked) <= left_for_cache(asked)

    weights = (name for name in WEIGHT_FORMATS if fits(replace(config, weights=name)))
    caches = (name for name in CUDA_FORMATS if fits(replace(config, kv_cache_dtype=name)))
    remedies = [f"--weights {name}" for name in weights]
    remedies += [f"--kv-cache-dtype {name}" for name in caches]
    if fits(replace(config, max_step_tokens=min(config.max_step_tokens, _RESERVED_ROWS))):
        remedies.append(f"--max-step-tokens {_RESERVED_ROWS}")
    if (shorter := left_for_cache(config) // _sequence_bytes(model, config)) > 0:
        remedies.append(f"--max-model-len {shorter}")
    if config.group.num_ranks == 1 and (ranks := tensor_that_fits(model, config, free_bytes)):
        remedies.append(f"--tensor {ranks} on as many GPUs")
    return " or ".join(remedies) or "a GPU with more memory"


def _steps_bytes(model: ModelConfig, config: EngineConfig) -> int:
    """What steps take beside weights and cache."""
    more_rows = max(most_prompt_rows(config) - _RESERVED_ROWS, 0)
    num_bytes = more_rows * row_bytes(model, CUDA_FORMATS[config.kv_cache_dtype].is_coded)
    if config.activations != "auto":
        num_bytes += room_bytes(model, more_rows)
    return _RESERVE_BYTES + num_bytes


def _sequence_bytes(model: ModelConfig, config: EngineConfig) -> int:
    """What a position of the longest sequence takes: codes of all layers, and a layer's copy."""
    return _position_bytes(model, config) + _copy_bytes(model, config)


def _position_bytes(model: ModelConfig, config: EngineConfig) -> int:
    return model.kv_bytes_per_token(CUDA_FORMATS[config.kv_cache_dtype])


def _copy_bytes(model: ModelConfig, config: EngineConfig) -> int:
    """Of a position, where prompts read codes (`prompt_attention`); planned on every GPU alike."""
    if not CUDA_FORMATS[config.kv_cache_dtype].is_coded or config.is_deterministic:
        return 0
    return model.num_kv_heads * BFLOAT16.head_bytes(model.head_dim)


def most_prompt_rows(config: EngineConfig) -> int:
    """Of a step with prompts."""
    return max(config.max_step_tokens, config.max_sequences + config.block_size)


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _load_runner(
    checkpoint: Checkpoint,
    config: EngineConfig,
    capacity: Capacity,
    kernels: ModuleType,
    device: torch.device,
    timeline: Timeline,
) -> CudaRunner:
    model, source = checkpoint.config, Weights(checkpoint, torch.bfloat16)
    weights = load_llama(source, model, capacity.max_model_len, device, config.weight_format)
    torch.cuda.empty_cache()  # what packing needed
    timeline.end("weights")
    most_rows = most_prompt_rows(config)
    of_any_step = max(most_rows, MAX_ROWS)
    kernels = with_activations(kernels, config.activations, model, of_any_step, device)
    cache_format = CUDA_FORMATS[config.kv_cache_dtype]
    cache = KVCache(model, capacity.num_cache_blocks, device, cache_format)
    pages_per_sequence = -(-capacity.max_model_len // PAGE_TOKENS)
    decoder = Decoder(kernels, weights, model, cache, pages_per_sequence, config.is_deterministic)
    prefill = None
    if runs_prefill(kernels, device, config):
        attention = PromptAttention(kernels, cache, decoder.attention, pages_per_sequence)
        prefill = Prefill(kernels, weights, model, cache, attention, most_rows)
    return CudaRunner(
        kernels,
        decoder,
        prefill=prefill,
        uses_graphs=config.uses_graphs,
        overlaps=config.overlaps_kernels,
        runs_ahead=config.runs_ahead,
    )
