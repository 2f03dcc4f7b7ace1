"""Summaries of models, as what fetches one tells them, and services with sizes for them."""

from openinference_operator.spec import parse

SMOLLM2 = {
    "parameters": 134_515_008,
    "weightBytes": 98_000_000,
    "numLayers": 30,
    "numHeads": 9,
    "numKvHeads": 3,
    "headDim": 64,
    "maxPositions": 8192,
    "numExperts": 0,
}
LLAMA_70B = {
    "parameters": 70_553_706_496,
    "weightBytes": 141_107_412_992,
    "numLayers": 80,
    "numHeads": 64,
    "numKvHeads": 8,
    "headDim": 128,
    "maxPositions": 8192,
}
MIXTRAL = LLAMA_70B | {
    "numLayers": 32,
    "numHeads": 32,
    "hiddenSize": 4096,
    "numExperts": 8,
    "expertParameters": 3 * 8 * 32 * 4096 * 14_336,
}
QWEN3_MOE = LLAMA_70B | {
    "numLayers": 48,
    "numHeads": 32,
    "numKvHeads": 4,
    "hiddenSize": 2048,
    "numExperts": 128,
    "expertParameters": 3 * 128 * 48 * 2048 * 768,
}


def service_with(gpus=0, memory=None, **parallelism):
    limits = ({"nvidia.com/gpu": gpus} if gpus else {}) | ({"memory": memory} if memory else {})
    spec = {"model": {"uri": "hf://a/b"}, "resources": {"limits": limits}}
    return parse({"metadata": {"name": "demo"}, "spec": spec | {"parallelism": parallelism}})
