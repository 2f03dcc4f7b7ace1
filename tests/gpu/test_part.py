"""The parts of a checkpoint that ranks on GPUs have, and what cannot be cut into such."""

import msgspec
import numpy as np
import pytest
import torch
from openinference_engine.config import EngineConfig, ExpertsConfig, GroupConfig
from openinference_engine.errors import StartError
from openinference_engine.llama_weights import load_llama
from openinference_engine.ranks import cuda_group
from openinference_engine.ranks.cuda_group import prepare_gpu
from openinference_engine.ranks.part import CheckpointPart
from openinference_engine.ranks.team import Ranks, Team
from openinference_engine.weights.loader import Weights

from tests.gpu.random_model import RandomCheckpoint, changed
from tests.gpu.test_team import CONFIG


def test_parts_of_a_checkpoint_are_the_whole():
    """Heads of queries, of keys too where there are enough, and columns of what sums them up."""
    whole = RandomCheckpoint(CONFIG)
    first, second = (CheckpointPart(whole, Team(index, 2)) for index in range(2))
    prefix = "model.layers.0"
    for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"):
        parts = [part.array(f"{prefix}.{name}.weight") for part in (first, second)]
        assert np.array_equal(np.concatenate(parts), whole.array(f"{prefix}.{name}.weight"))
    heads = [part.array("lm_head.weight") for part in (first, second)]
    assert np.array_equal(np.concatenate(heads), whole.array("lm_head.weight"))
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        parts = [part.array(f"{prefix}.{name}.weight") for part in (first, second)]
        assert np.array_equal(np.concatenate(parts, axis=1), whole.array(f"{prefix}.{name}.weight"))
    norm = f"{prefix}.input_layernorm.weight"
    assert np.array_equal(first.array(norm), whole.array(norm))


def test_part_of_a_part_is_refused_where_the_matrix_is_cut():
    own, some = CheckpointPart(RandomCheckpoint(CONFIG), Team(0, 2)), slice(0, 2)
    down, up = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("down", "up"))
    assert np.array_equal(own.array(down, rows=some), own.array(down)[some])
    assert np.array_equal(own.array(up, columns=some), own.array(up)[:, some])
    for name, asked in ((up, {"rows": some}), (down, {"columns": some})):
        with pytest.raises(ValueError, match=f"its {next(iter(asked))} are cut"):
            own.array(name, **asked)


@pytest.mark.parametrize("weight_format", ["bfloat16", "int4"])
@pytest.mark.parametrize("ties_embeddings", [False, True])
def test_heads_of_ranks_are_the_whole_head(weight_format, ties_embeddings):
    """To the bit, though no rank has another's rows."""
    model = msgspec.structs.replace(CONFIG, ties_embeddings=ties_embeddings)
    whole, cpu = RandomCheckpoint(model), torch.device("cpu")

    def head(checkpoint, team):
        weights = Weights(checkpoint, torch.bfloat16, ranks=Ranks(stage=team))
        return load_llama(weights, checkpoint.config, 16, cpu, weight_format).head

    parts = [head(CheckpointPart(whole, team), team) for team in (Team(0, 2), Team(1, 2))]
    assert torch.equal(torch.cat(parts), head(whole, Team()))


def test_inner_columns_that_ranks_cannot_share_are_refused():
    odd = RandomCheckpoint(changed(num_heads=4, num_kv_heads=2, intermediate_size=96))
    config = EngineConfig("", device="cuda", group=GroupConfig(tensor=4))
    with pytest.raises(StartError, match="intermediate_size 96 into multiples of 32; use 1"):
        prepare_gpu(odd, config, 0)


@pytest.mark.parametrize(
    ("heads", "inner", "layout", "message"),
    [
        (3, 64, {"tensor": 3}, "--tensor 3 does not divide the experts' intermediate_size 64 "
         "into multiples of 32; use --expert 3"),
        (4, 64, {"expert": 8}, "--expert 8 does not divide the 6 experts of the model; use 1"),
        (4, 64, {"tensor": 4, "expert": 2}, "8 GPUs do not divide the 4 query heads and 1 key "
         "heads of the model; use 1, 2 or 4 in all"),
        (4, 96, {"tensor": 2}, "--tensor 2 does not .* 96 into multiples of 32; use --expert 2"),
        (4, 32, {"tensor": 4}, "intermediate_size 32 into multiples of 32; use 1 or 2 GPUs in all"),
    ],
)  # fmt: skip
def test_experts_that_ranks_cannot_share_are_refused(monkeypatch, heads, inner, layout, message):
    monkeypatch.setattr(cuda_group, "load_kernels", lambda: None)
    experts = ExpertsConfig(6, 2, inner, True)
    sparse = changed(num_heads=heads, intermediate_size=384, experts=experts)
    config = EngineConfig("", device="cuda", group=GroupConfig(**layout))
    with pytest.raises(StartError, match=message):
        prepare_gpu(RandomCheckpoint(sparse), config, 0)
