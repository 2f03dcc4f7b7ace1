"""The GPU benchmarks count what they claim to; shown at a tiny shape, where speed means nothing."""

import re

import pytest
import torch
from openinference_engine.cuda_kv_cache import KVCache
from openinference_engine.cuda_runner import CudaRunner
from openinference_engine.decoder import Decoder

from benchmarks import decode, kernels
from benchmarks.decode_options import num_blocks_of, parse_options
from benchmarks.shapes import SHAPES, random_llama

NUM_BLOCKS, PAGES = 8, 2


@pytest.fixture(params=["tiny", "tiny-experts"])
def decoder(request, place):
    config = SHAPES[request.param]
    cache = KVCache(config, NUM_BLOCKS, place.device)
    for layer in (*cache.keys, *cache.values):
        layer.normal_()
    weights = random_llama(config, PAGES * 16, place.device)
    return Decoder(place.ops, weights, config, cache, PAGES)


def test_only_steps_in_which_all_sequences_decode_are_timed(place, decoder):
    runner = CudaRunner(place.ops, decoder)
    speed = decode.measure(runner, decoder.config, NUM_BLOCKS, batch=3, prompt=5, output=4)
    assert speed.num_steps == 3  # the first token of each comes with its prompt
    assert speed.num_prompt_tokens == 15


def test_a_batch_is_told_with_its_share_of_what_must_be_read(place, decoder, monkeypatch, capsys):
    shape = next(name for name, shape in SHAPES.items() if shape is decoder.config)
    flags = ["--shape", shape, "--prompt", "5", "--output", "4", "--batch", "3", "--sampled"]
    monkeypatch.setattr("sys.argv", ["decode", *flags])
    options, runner = parse_options(""), CudaRunner(place.ops, decoder)
    num_blocks = num_blocks_of(options, decoder.config)
    assert num_blocks == 3
    decode.Benchmark(options, decoder.config, runner, num_blocks, limit=1e12).report(3)
    assert re.fullmatch(
        r"b3: \d+ tok/s, step .* ms, \d+% of the copy bandwidth, host .* ms a step\n",
        capsys.readouterr().out,
    )


def test_ranks_that_cannot_share_the_shape_are_refused_before_any_starts(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["decode", "--weights", "int4", "--tensor-parallel", "4"])
    with pytest.raises(SystemExit):
        parse_options("")
    assert "intermediate_size 11008 into multiples of 128; use 1 or 2" in capsys.readouterr().err


def test_cases_read_together_what_a_step_reads(decoder):
    *ops, step = kernels.cases(decoder, rows=2, context=20)
    calls = [1 if case.name == "choose_token" else decoder.config.num_layers for case in ops]
    assert sum(n * case.num_bytes for n, case in zip(calls, ops, strict=True)) == step.num_bytes


def test_every_case_runs_over_placed_sequences(place, decoder):
    kernels.place_sequences(decoder, rows=2, context=20)
    for case in kernels.cases(decoder, rows=2, context=20)[:-2]:
        case.queue(place.stream)
    decoder.queue(2, place.stream)
    assert decoder.inputs.positions[:2].tolist() == [20, 20]
    assert torch.isfinite(decoder.logits(2)).all()
