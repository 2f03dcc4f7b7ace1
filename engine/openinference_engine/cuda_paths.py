"""Which CUDA kernels compute a model here: by the GPU, the formats and what was asked for."""

from __future__ import annotations

from types import ModuleType

import torch

from openinference_engine.config import EngineConfig
from openinference_engine.kv_formats import CUDA_FORMATS


def kernel_path(device: torch.device, config: EngineConfig) -> str:
    """Names what the bits of a logit depend on beside its row.

    Attention is split by the number of multiprocessors: another card of the same capability adds up
    in another order.
    """
    gpu = torch.cuda.get_device_properties(device)
    major, minor = gpu.major, gpu.minor
    mode = f"-deterministic-{gpu.multi_processor_count}" if config.is_deterministic else ""
    if config.activations != "auto":
        mode += f"-activations-{config.activations}"
    return f"cuda-sm{major}{minor}-{config.weight_format}{mode}"


def op_paths(kernels: ModuleType, device: torch.device, config: EngineConfig) -> dict[str, str]:
    """Kind of op → which kernels compute it: several where the number of rows chooses.

    products: csrc/cuda/skinny_gemm.cuh says from how many rows on. drawing: but for what only the
    host knows (`rules.is_drawn_on_device`).
    """
    is_coded = CUDA_FORMATS[config.kv_cache_dtype].is_coded
    products, prompts, attention = ["few"], "rows", ["attend"]
    if not config.is_deterministic and _is_hopper(device):
        products += ["batch"] if config.weight_format != "bfloat16" else []
        products += ["many" if config.activations == "auto" else f"codes-{config.activations}"]
    if runs_prefill(kernels, device, config):
        prompts = "prefill"
        attention += ["expand_pages"] if is_coded else []
        attention += ["attend_prefill"]
    return {
        "products": "+".join(products),
        "prompts": prompts,
        "attention": "+".join(attention),
        "drawing": "device",
    }


def runs_prefill(kernels: ModuleType, device: torch.device, config: EngineConfig) -> bool:
    """Whether long prompts have kernels of their own: those of Hopper's instructions.

    They add up a row in another order than decoding does.
    """
    if config.is_deterministic:
        return False
    return _is_hopper(device) and hasattr(kernels, "attend_prefill")


def _is_hopper(device: torch.device) -> bool:
    major, _ = torch.cuda.get_device_capability(device)
    return major == 9
