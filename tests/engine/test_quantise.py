"""`openinference quantize`: what it writes is what it computed, here and for transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from openinference_engine.config import EngineConfig, ModelConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.quantise.calibration import float_matrix
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.gptq import quantise_by_moments
from openinference_engine.quantise.scheme import SCHEMES, round_to_nearest
from openinference_engine.runner import Runner
from openinference_engine.step import Chunk, Step
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint
from openinferencev2.cli import app
from typer.testing import CliRunner

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 8}
SMALL = {
    name: replace(scheme, group_size=scheme.group_size and 32) for name, scheme in SCHEMES.items()
}
STORED = {"int4": "Q4_0", "int4-zero": "Q4_1", "int8": "Q8_0", "fp8": "F16"}
NAME = "model.layers.1.mlp.down_proj.weight"
PROMPT = [5, 6, 7, 8, 9, 10, 11]


@pytest.fixture(scope="module")
def source(make_tiny_model: Callable[..., Path]) -> Path:
    return make_tiny_model(**SHAPE)


@pytest.mark.parametrize("kind", SMALL)
def test_folder_holds_the_rounded_weights_to_the_bit(
    source: Path, tmp_path: Path, kind: str
) -> None:
    quantise_folder(source, tmp_path / "out", SMALL[kind])

    found = open_checkpoint(tmp_path / "out")

    wanted = round_to_nearest(SMALL[kind], float_matrix(open_checkpoint(source), NAME)).expand()
    assert torch.equal(float_matrix(found, NAME), wanted)
    assert found.stored(NAME).format == STORED[kind]
    assert found.names() == open_checkpoint(source).names()


@pytest.mark.parametrize("kind", ["int4", "int8", "fp8"])
def test_transformers_reads_the_same_model(source: Path, tmp_path: Path, kind: str) -> None:
    """Its logits and ours from one folder, in float32; scales are bfloat16 on both sides."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "out"
    quantise_folder(source, folder, SMALL[kind])

    oracle = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        wanted = oracle(torch.tensor([PROMPT])).logits[0]

    torch.testing.assert_close(logits_of(folder, PROMPT), wanted[:-1], atol=2e-5, rtol=0)


def test_zero_points_mean_what_the_layout_says(source: Path, tmp_path: Path) -> None:
    """By the package that defines it: transformers 5.23 leaves packed zero points out."""
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from safetensors.torch import load_file

    quantise_folder(source, tmp_path / "out", SMALL["int4-zero"])

    stored = load_file(next((tmp_path / "out").glob("*-00003-of-*")))
    matrix = NAME.removesuffix("weight")
    parts = {n.removeprefix(matrix): part for n, part in stored.items() if n.startswith(matrix)}
    arguments = QuantizationArgs(num_bits=4, symmetric=False, strategy="group", group_size=32)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    wanted = PackedQuantizationCompressor.decompress(parts, scheme)["weight"]
    found = float_matrix(open_checkpoint(tmp_path / "out"), NAME)
    assert torch.equal(found.bfloat16(), wanted)


@pytest.mark.parametrize(("family", "gain"), [("Llama", 0.7), ("Mixtral", 0.95)])
def test_calibrated_layers_answer_more_like_the_original(
    make_tiny_model: Callable[..., Path], tmp_path: Path, family: str, gain: float
) -> None:
    """On the text of the calibration. Experts are rounded to nearest, so they gain less."""
    changes = {"num_local_experts": 4, "num_experts_per_tok": 2} if family == "Mixtral" else {}
    source, text = make_tiny_model(family, **SHAPE, **changes), "A text of many words. " * 60
    quantise_folder(source, tmp_path / "nearest", SMALL["int4"])
    quantise_folder(source, tmp_path / "calibrated", SMALL["int4"], text)
    tokens = load_tokenizer(open_checkpoint(source), source).encode(text)[:200]

    original = logits_of(source, tokens)
    distances = {
        name: (logits_of(tmp_path / name, tokens) - original).pow(2).mean().item()
        for name in ("nearest", "calibrated")
    }

    assert distances["calibrated"] < gain * distances["nearest"]
    gates = [name for name in open_checkpoint(tmp_path / "nearest").names() if "gate.w" in name]
    assert all(f"{name}_packed" not in raw_names(tmp_path / "nearest") for name in gates)


def test_moments_of_unrelated_inputs_leave_weights_at_the_nearest() -> None:
    matrix = torch.randn(24, 64, generator=torch.Generator().manual_seed(1))
    wanted = round_to_nearest(SMALL["int4"], matrix)

    found = quantise_by_moments(SMALL["int4"], matrix, torch.eye(64))

    assert torch.equal(found.codes, wanted.codes)


@pytest.mark.parametrize("kind", SMALL)
def test_columns_make_good_the_errors_of_others(kind: str) -> None:
    """With inputs that follow one another, what comes out errs far less than by rounding alone."""
    generator = torch.Generator().manual_seed(2)
    mixing = torch.randn(8, 64, generator=generator)
    inputs = torch.randn(500, 8, generator=generator) @ mixing
    inputs += 0.1 * torch.randn(500, 64, generator=generator)
    inputs[:, 5] = 0  # never seen
    matrix = torch.randn(24, 64, generator=generator)

    def error(found: torch.Tensor) -> float:
        return (inputs @ (found - matrix).T).pow(2).sum().item()

    nearest = round_to_nearest(SMALL[kind], matrix).expand()
    found = quantise_by_moments(SMALL[kind], matrix, inputs.T @ inputs).expand()

    assert error(found) < 0.3 * error(nearest)


def test_gguf_becomes_a_folder_of_its_own(
    source: Path, save_as_gguf: Callable[..., Path], tmp_path: Path
) -> None:
    """With config, tokenizer and ends of answers from its metadata."""
    path = save_as_gguf(source, tmp_path / "model.gguf", "F32")
    quantise_folder(path, tmp_path / "out", SMALL["int8"])
    gguf, folder = open_checkpoint(path), open_checkpoint(tmp_path / "out")
    assert isinstance(gguf, GGUFCheckpoint)
    tokenizer, found = load_tokenizer(gguf, path), load_tokenizer(folder, tmp_path / "out")

    assert replace_name(folder.config) == replace_name(gguf.config)
    assert found.backend.to_str() == tokenizer.backend.to_str()
    assert found.end_token_ids == tokenizer.end_token_ids
    wanted = round_to_nearest(SMALL["int8"], float_matrix(gguf, NAME)).expand()
    assert torch.equal(float_matrix(folder, NAME), wanted)


def test_inputs_that_do_not_divide_are_refused_with_what_would(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(StartError, match=r"hidden_size 64 .* groups of 128; use --group-size 64"):
        quantise_folder(source, tmp_path / "out", SCHEMES["int4"])


def test_text_without_words_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="is empty; give one of some thousand words"):
        quantise_folder(source, tmp_path / "out", SMALL["int4"], "")


def test_weights_that_are_no_numbers_are_refused(
    make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """What was written before that tensor stayed in a hidden folder, most of a model maybe."""
    from safetensors.torch import load_file, save_file

    path = make_tiny_model(**SHAPE) / "model.safetensors"
    tensors = load_file(path)
    tensors[NAME][3, 4] = torch.nan
    save_file(tensors, path)
    with pytest.raises(StartError, match=r"down_proj\.weight holds NaN or infinity"):
        quantise_folder(path.parent, tmp_path / "out", SMALL["int4"])
    assert not list(tmp_path.iterdir())


def test_folder_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StartError, match="exists; remove it or name another folder"):
        quantise_folder(source, tmp_path, SMALL["int4"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (f"{NAME}_scale", "lacks the tensor .*down_proj.weight_scale; fetch it again"),
        (f"{NAME}_shape", "lacks the tensor .*down_proj.weight_shape; fetch it again"),
    ],
)
def test_folder_without_a_part_is_refused(
    source: Path, tmp_path: Path, lost: str, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    quantise_folder(source, tmp_path / "out", SMALL["int4"])
    for path in (tmp_path / "out").glob("*.safetensors"):
        save_file({n: t for n, t in load_file(path).items() if n != lost}, path)

    with pytest.raises(StartError, match=message):
        open_checkpoint(tmp_path / "out").stored(NAME)


def test_codes_without_their_description_are_refused(source: Path, tmp_path: Path) -> None:
    """Else codes would pass for weights."""
    quantise_folder(source, tmp_path / "out", SMALL["fp8"])
    config = tmp_path / "out" / "config.json"
    values = json.loads(config.read_text())
    del values["quantization_config"]
    config.write_text(json.dumps(values))

    with pytest.raises(StartError, match="lacks quantization_config, and there are tensors of F8"):
        open_checkpoint(tmp_path / "out")


def test_command_writes_a_folder_or_says_what_would_help(source: Path, tmp_path: Path) -> None:
    run, out = CliRunner().invoke, str(tmp_path / "out")
    refused = run(app, ["quantize", str(source), out])
    assert (refused.exit_code, "use --group-size 64" in refused.stderr) == (2, True)
    absent = run(app, ["quantize", str(source), out, "--calibration", str(tmp_path / "absent")])
    assert (absent.exit_code, "give a text file in UTF-8" in absent.stderr) == (2, True)

    done = run(app, ["quantize", str(source), out, "--group-size", "32"])

    assert (done.exit_code, f"serve file://{out}" in done.stdout.replace("\n", "")) == (0, True)
    assert open_checkpoint(Path(out)).stored(NAME).format == "Q4_0"


def replace_name(config: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(config, architecture="")


def raw_names(folder: Path) -> set[str]:
    return set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])


def logits_of(folder: Path, token_ids: list[int]) -> torch.Tensor:
    """Behind each token but the last: (tokens − 1, vocab)."""
    engine = Engine(open_checkpoint(folder), EngineConfig("", max_sequences=1, dtype="float32"))
    blocks = list(range(-(-len(token_ids) // engine.config.block_size)))
    chunk = Chunk("all", token_ids[:-1], 0, blocks, None, targets=token_ids[1:])
    runner: Runner = engine.runner
    return runner.compute(Step([chunk]))[1]
