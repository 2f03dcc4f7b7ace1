"""What the benchmark of starts writes is a checkpoint, and what it measures is a start."""

import json

import pytest
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.kernel_formats import stored_format

from benchmarks import startup
from benchmarks.checkpoints import write_checkpoint
from benchmarks.shapes import SHAPES


@pytest.mark.parametrize(("is_gptq", "kind"), [(False, "bfloat16"), (True, "int4-zero")])
def test_a_random_checkpoint_is_of_the_shape_and_kind_asked_for(tmp_path, is_gptq, kind):
    write_checkpoint(tmp_path / "model", SHAPES["tiny"], is_gptq)
    checkpoint = open_checkpoint(tmp_path / "model")
    assert checkpoint.config == SHAPES["tiny"]
    assert stored_format(checkpoint) == kind


def test_a_start_is_measured_until_the_server_answers(tmp_path):
    write_checkpoint(tmp_path / "model", SHAPES["tiny"])
    start = startup.measure(tmp_path / "model", "--device", "cpu")
    assert 0 < start.listening < start.ready
    assert set(start.stages) == {"import", "load", "warm_up"}
    assert json.loads(start.answer)["usage"]["completion_tokens"] == 4
