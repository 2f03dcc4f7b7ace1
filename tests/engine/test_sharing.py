"""Which GPUs may share a model: the operator says it before a pod is made, as the engine would."""

import re
from itertools import product

import pytest
from openinference_engine.config import ExpertsConfig, GroupConfig, ModelConfig, WeightFormat
from openinference_engine.errors import StartError
from openinference_engine.llama_weights import check_supported, column_multiple
from openinference_engine.ranks.layout import check_fits
from openinference_engine.ranks.sharing import MOST_RANKS, check_sharing
from openinference_operator.layout import Layout, find_misfit
from openinference_operator.sharing import find_gpu_misfit

HEADS = [(4, 1), (6, 2), (8, 8), (9, 3), (32, 4)]
EXPERTS = [None, *product([3, 6, 8], [96, 256, 384, 640])]  # how many, and columns of each
SIZES = [1, 2, 3, 4, 6, 8, 16]
FLAGS = re.compile(r"(tensor|expert) (\d+)")


@pytest.mark.parametrize("experts", EXPERTS, ids=str)
@pytest.mark.parametrize("gpu_format", ["bfloat16", "int4"])
def test_operator_and_engine_refuse_the_same_and_advise_the_same(
    gpu_format: WeightFormat, experts: tuple[int, int] | None
) -> None:
    for heads, inner in product(HEADS, [96, 640, 1024, 1536, 5632]):
        model = model_of(heads, inner, experts)
        summary = summary_of(model, gpu_format)
        for tensor, expert in product(SIZES, SIZES):
            layout = Layout(1, tensor, expert)
            misfit = find_misfit(layout, summary) or find_gpu_misfit(layout, summary)
            group = GroupConfig(tensor=tensor, expert=expert)
            refusal = refusal_of(model, group, gpu_format)
            assert bool(misfit) == bool(refusal), (misfit, refusal)
            if "; use " in refusal:
                _, _, remedy = refusal.replace("--", "").rpartition("; use ")
                assert misfit.endswith(f"; use {remedy}"), refusal
                assert "in all" not in remedy or most_of(remedy) <= MOST_RANKS, refusal
                advised = {flag: int(size) for flag, size in FLAGS.findall(remedy)}
                assert not advised or not refusal_of(model, GroupConfig(**advised), gpu_format)


def most_of(remedy: str) -> int:
    return max(map(int, re.findall(r"\d+", remedy)))


def refusal_of(model: ModelConfig, group: GroupConfig, weight_format: WeightFormat) -> str:
    try:
        check_fits(model, group)
        check_supported(model, weight_format)
        check_sharing(model, group, column_multiple(weight_format))
    except StartError as error:
        return str(error)
    return ""


def model_of(heads: tuple[int, int], inner: int, experts: tuple[int, int] | None) -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        vocab_size=1024,
        hidden_size=512,
        intermediate_size=inner,
        num_layers=2,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=128,
        max_positions=64,
        rms_norm_epsilon=1e-5,
        rope_theta=10_000.0,
        experts=experts and ExpertsConfig(experts[0], 2, experts[1], True),
    )


def summary_of(model: ModelConfig, gpu_format: str) -> dict[str, int | str]:
    """What the operator reads of a model for this."""
    experts = model.experts
    return {
        **{"numLayers": model.num_layers, "numHeads": model.num_heads, "gpuFormat": gpu_format},
        **{"numKvHeads": model.num_kv_heads, "headDim": model.head_dim},
        **{"hiddenSize": model.hidden_size, "intermediateSize": model.intermediate_size},
        "numExperts": experts.count if experts else 0,
        "expertParameters": (
            3 * model.num_layers * experts.count * model.hidden_size * experts.intermediate_size
            if experts
            else 0
        ),
    }
