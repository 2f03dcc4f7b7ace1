"""What the peer, vLLM 0.26, decoded: tokens a second, prompt 128, output 256, greedy."""

from __future__ import annotations

from openinference_engine.config import GroupConfig

_OF_ONE_H100 = {
    ("llama-2-7b", "bfloat16"): {1: 164, 8: 1212, 32: 4097, 128: 9970},
    ("llama-2-7b", "fp8"): {1: 261, 8: 1883, 32: 5423, 128: 11787},
    ("llama-2-7b", "int4"): {1: 264, 8: 1903, 32: 5640, 128: 10967},
    ("llama-2-13b", "bfloat16"): {1: 96, 8: 708},
    ("llama-2-13b", "int4"): {1: 186, 8: 1306},
    ("llama-2-70b", "int4"): {1: 48, 8: 384, 32: 1439},
}
_OF_TWO_H200 = {
    ("llama-2-7b", "bfloat16"): {1: 312, 8: 2335, 32: 7630},
    ("llama-2-70b", "int4"): {1: 79, 8: 613, 32: 2197},
}
_TABLES = {GroupConfig(): _OF_ONE_H100, GroupConfig(tensor=2): _OF_TWO_H200}


def tokens_per_second(group: GroupConfig, shape: str, weights: str, batch: int) -> int | None:
    """None where it was not measured on as many GPUs."""
    return _TABLES.get(group, {}).get((shape, weights), {}).get(batch)
