"""Which weights `activations` is refused for: by the operator before a pod is made, as the engine
would when it starts."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest
from openinference_engine.coded_kernels import check_activations
from openinference_engine.coded_rows import MOST_COLUMNS
from openinference_engine.config import EngineConfig, GroupConfig, ModelConfig
from openinference_engine.errors import StartError
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.weights.checkpoint import Checkpoint, open_checkpoint
from openinference_engine.weights.kernel_formats import stored_format
from openinference_engine.weights.summary import summarise
from openinference_operator.activations import WEIGHTS_OF, find_activations_misfit
from openinference_operator.layout import Layout

# Embedding and head are most of the bytes, as of small models with many words.
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 4096,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
# Groups of 64, as of many GPTQ and AWQ checkpoints, are no kernel's.
KINDS = SCHEMES | {"int4 of 64": replace(SCHEMES["int4"], group_size=64)}
FAMILIES: dict[str, dict[str, Any]] = {"Llama": {}, "Mixtral": EXPERTS}


@pytest.fixture(scope="module", params=product(FAMILIES, ("as made", *KINDS)), ids=str)
def model(
    request: pytest.FixtureRequest,
    make_tiny_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder of each kind of weights."""
    family, kind = request.param
    plain = make_tiny_model(family, **SHAPE, **FAMILIES[family])
    if kind == "as made":
        return plain
    folder = tmp_path_factory.mktemp("coded") / kind
    quantise_folder(plain, folder, KINDS[kind])
    return folder


@pytest.fixture(scope="module")
def fp8_and_int8(
    make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """A folder of weights for each kind of activations."""
    plain, folder = make_tiny_model("Llama", **SHAPE), tmp_path_factory.mktemp("coded")
    for name in WEIGHTS_OF:
        quantise_folder(plain, folder / name, SCHEMES[name])
    return {name: folder / name for name in WEIGHTS_OF}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("activations", WEIGHTS_OF)
def test_operator_refuses_what_the_engine_would(model: Path, activations: Any, ranks: int) -> None:
    group = GroupConfig(tensor=ranks)
    summary = msgspec.to_builtins(summarise(model))
    misfit = find_activations_misfit(activations, Layout(tensor=ranks), summary)
    assert bool(misfit) == is_refused(open_checkpoint(model), activations, group), misfit


@pytest.mark.parametrize("more", [0, 128])
@pytest.mark.parametrize("activations", WEIGHTS_OF)
def test_rows_wider_than_the_kernel_holds_are_refused_at_plan_and_at_start(
    fp8_and_int8: dict[str, Path], activations: Any, more: int
) -> None:
    """The kernel that codes rows for fp8 holds 65,536 columns; nobody knew before its launch."""
    checkpoint = open_checkpoint(fp8_and_int8[activations])
    summary = msgspec.to_builtins(summarise(fp8_and_int8[activations]))
    columns = MOST_COLUMNS + more
    wide = msgspec.structs.replace(checkpoint.config, intermediate_size=columns)
    config = EngineConfig("", weights=stored_format(checkpoint), activations=activations)
    misfit = find_activations_misfit(activations, Layout(), summary | {"intermediateSize": columns})
    is_too_wide = activations == "fp8" and more > 0
    assert ("has some of 65664; leave it out" in misfit) == is_too_wide
    assert refusal(wide, config) == misfit.replace("engine.activations", "--activations")


def is_refused(checkpoint: Checkpoint, activations: Any, group: GroupConfig) -> bool:
    """By the engine, which keeps weights as they are stored."""
    weights = stored_format(checkpoint)
    config = EngineConfig("", weights=weights, activations=activations, group=group)
    return bool(refusal(checkpoint.config, config))


def refusal(model: ModelConfig, config: EngineConfig) -> str:
    """Why the engine does not start; empty if it does."""
    try:
        check_activations(model, config)
    except StartError as error:
        return str(error)
    return ""
