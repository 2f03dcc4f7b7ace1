"""Which part of a model each GPU of a pipeline has, and what fits: said before weights are read."""

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, GroupConfig
from openinference_engine.cuda_backend import plan_memory
from openinference_engine.decode_buffers import MAX_ROWS
from openinference_engine.errors import StartError
from openinference_engine.inputs import RowInputs
from openinference_engine.llama_weights import load_llama
from openinference_engine.ops.cuda_cache import PAGE_TOKENS
from openinference_engine.ranks.channels import HopEnd
from openinference_engine.ranks.cuda_part import most_rows
from openinference_engine.ranks.cuda_stage import stage_model
from openinference_engine.ranks.hops import layout_of
from openinference_engine.ranks.pipeline_plan import (
    bytes_of_lanes,
    check_room,
    plan_pipeline,
    plan_stage,
)
from openinference_engine.ranks.rendezvous import Verdict
from openinference_engine.weight_sizes import weight_bytes
from openinference_engine.weights.loader import Weights

from benchmarks.shapes import SHAPES
from tests.gpu.random_model import RandomCheckpoint, changed

LLAMA_7B, LLAMA_70B, GIB = SHAPES["llama-2-7b"], SHAPES["llama-2-70b"], 1 << 30


def settings(stages, pods=1, **fields):
    group = GroupConfig(pipeline=stages, pods=pods, rendezvous="pod-0:8001")
    return EngineConfig("", device="cuda", max_model_len=4096, group=group, **fields)


@pytest.mark.parametrize("stages", [2, 3, 8])
@pytest.mark.parametrize("ties_embeddings", [False, True])
def test_stages_are_the_whole_model(stages, ties_embeddings):
    """Embedding and head once each; a table that is both lies on both ends."""
    model = msgspec.structs.replace(LLAMA_7B, ties_embeddings=ties_embeddings)
    parts = [stage_model(model, GroupConfig(pipeline=stages), stage) for stage in range(stages)]
    rotary = 4 * 4096 * model.head_dim
    weights = [weight_bytes(part.config, "bfloat16", 4096, part.extent) for part in parts]
    table = 2 * model.vocab_size * model.hidden_size if ties_embeddings else 0
    whole = weight_bytes(model, "bfloat16", 4096)
    assert sum(weights) - (stages - 1) * rotary == whole + table
    layers = [part.config.num_layers for part in parts]
    assert [part.extent.first_layer for part in parts] == [sum(layers[:n]) for n in range(stages)]
    assert sum(layers) == model.num_layers


@pytest.mark.parametrize("ties_embeddings", [False, True])
def test_stages_load_their_own_tables_alone(ties_embeddings):
    model = changed(ties_embeddings=ties_embeddings)
    source, cpu = Weights(RandomCheckpoint(model), torch.bfloat16), torch.device("cpu")
    first, last = (
        load_llama(source, part.config, 16, cpu, extent=part.extent)
        for part in (stage_model(model, GroupConfig(pipeline=2), stage) for stage in range(2))
    )
    assert (len(first.embedding), len(first.head)) == (model.vocab_size, 0)
    assert (len(last.embedding), len(last.head)) == (0, 112)  # padded to whole tiles
    is_table = torch.equal(last.head[: model.vocab_size], first.embedding)
    assert is_table == ties_embeddings


def test_cache_is_as_large_as_the_fullest_stage_affords():
    config = settings(3, weights="int4", max_sequences=4096)
    stages = [plan_stage(LLAMA_70B, config, stage, 40 * GIB).num_blocks for stage in range(3)]
    assert len(set(stages)) > 1
    assert plan_pipeline(LLAMA_70B, config, 40 * GIB).num_blocks == min(stages)


def test_inputs_of_all_lanes_but_one_are_counted_beside_the_inboxes():
    inputs = RowInputs(MAX_ROWS, 4096 // PAGE_TOKENS, 4096, torch.device("cpu")).words.nbytes
    inboxes = layout_of(LLAMA_7B, settings(3).group, 0, most_rows(settings(3))).num_bytes
    of_lanes = (inboxes + 2 * inputs) / 2**20
    with pytest.raises(StartError, match=f"and {of_lanes:.0f} MiB for its lanes"):
        plan_stage(LLAMA_7B, settings(3), 0, GIB)


def test_copy_of_the_next_inbox_is_counted_where_that_is_in_another_pod():
    """Both of half the size where rows come, which go there without marks."""
    apart, together = settings(4, pods=2), settings(4)
    choices, rows, *_ = [
        layout_of(LLAMA_7B, together.group, stage, most_rows(apart)) for stage in range(4)
    ]
    more = [
        bytes_of_lanes(LLAMA_7B, apart, stage) - bytes_of_lanes(LLAMA_7B, together, stage)
        for stage in range(4)
    ]
    of_rows = 4 * rows.lane_bytes // 2
    assert more == [0, of_rows + rows.num_bytes - rows.state, -of_rows, choices.num_bytes]


def test_stages_fit_where_the_whole_model_does_not():
    with pytest.raises(StartError, match="--weights int4: the model takes"):
        plan_memory(LLAMA_70B, settings(1, weights="int4"), 22 * GIB)
    plan_pipeline(LLAMA_70B, settings(2, weights="int4"), 22 * GIB)


def test_stage_that_does_not_fit_says_which_and_what_would():
    with pytest.raises(StartError) as error:
        plan_pipeline(LLAMA_7B, settings(2), 7 * GIB)
    assert str(error.value).startswith("stage 0 of --pipeline 2, with 16 layers and ")
    assert "use --weights fp8 or" in str(error.value)


def test_gpu_with_less_room_than_the_first_is_refused_with_the_numbers():
    config, verdict = settings(2), Verdict(num_cache_blocks=2001)
    check_room(LLAMA_7B, config, 1, 79 * GIB, verdict)
    with pytest.raises(StartError, match=r"stage 1 .* rank 0 has planned 2000; .*--kv-cache-bytes"):
        check_room(LLAMA_7B, config, 1, 10 * GIB, verdict)


def test_rows_from_another_pod_fit_the_half_of_an_inbox_that_they_get():
    """As many as a step has, without marks; what lies behind is the next lane's."""
    layout = layout_of(LLAMA_7B, settings(2, pods=2).group, 1, 513)
    space = torch.empty(layout.num_bytes, dtype=torch.uint8)
    packed = HopEnd(lambda _: None, space[layout.inbox(0) :]).rows(513, LLAMA_7B.hidden_size)
    assert layout.lane_bytes - 16 < packed.nbytes <= layout.lane_bytes
