"""Models and settings that an engine refuses to start with, each in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from aiohttp import web
from openinference_engine.__main__ import build_parser, engine_config
from openinference_engine.config import EngineConfig, ServerConfig
from openinference_engine.core import process
from openinference_engine.engine import Engine
from openinference_engine.errors import StartError
from openinference_engine.ranks import addresses
from openinference_engine.server.door import opened
from openinference_engine.weights.checkpoint import open_checkpoint


def test_missing_tensor_is_one_sentence(make_tiny_model: Callable[..., Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = make_tiny_model() / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path)
    with pytest.raises(StartError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj"):
        Engine(open_checkpoint(path.parent), EngineConfig(""))


def test_unknown_architecture_is_named(make_tiny_model: Callable[..., Path]) -> None:
    folder = make_tiny_model()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "MambaForCausalLM"))
    with pytest.raises(StartError, match="architecture 'MambaForCausalLM' is unknown; known are"):
        Engine(open_checkpoint(folder), EngineConfig(""))


def test_unknown_activation_is_refused(make_tiny_model: Callable[..., Path]) -> None:
    """A model with another gate was computed with ours, and answered nonsense."""
    folder = make_tiny_model(hidden_act="gelu")
    with pytest.raises(StartError, match="hidden_act 'gelu' is unknown; known are silu, swish"):
        _ = open_checkpoint(folder).config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 257}, "--max-model-len 257 is outside .* use 1 to 256"),
        ({"kv_cache_bytes": 1000}, "--kv-cache-bytes 1000 holds 0 tokens; lower --max-model-len"),
    ],
)
def test_model_that_does_not_fit_is_refused(
    tiny_llama: Path, settings: dict[str, int], message: str
) -> None:
    with pytest.raises(StartError, match=message):
        Engine(open_checkpoint(tiny_llama), EngineConfig("", **settings))


def test_gpu_whose_memory_runs_out_is_told(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the plan cannot know: another process took it meanwhile. It was a traceback."""

    def load(*_: Any) -> Engine:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nTraceback")

    monkeypatch.setattr(process, "Engine", load)
    config = EngineConfig(f"file://{tiny_llama}")
    message = (
        r"^the GPU's memory ran out .*: CUDA out of memory. Tried to allocate 2.00 GiB.; end .*$"
    )
    with pytest.raises(StartError, match=message):
        process.run(tmp_path, config, 0.0)


@pytest.mark.parametrize("settings", [{"weights": "fp8"}, {"activations": "int8"}])
def test_what_a_gpu_alone_does_is_refused(tiny_llama: Path, settings: dict[str, Any]) -> None:
    (flag, value), *_ = settings.items()
    with pytest.raises(StartError, match=f"--{flag} {value} is for --device cuda; a CPU"):
        Engine(open_checkpoint(tiny_llama), EngineConfig("", **settings))


def test_activations_are_a_flag() -> None:
    options = build_parser().parse_args(["serve", "file:///model.gguf", "--activations", "int8"])
    assert engine_config(options).activations == "int8"


@pytest.mark.parametrize(("waits", "uses_graphs"), [("0", True), ("1", False)])
def test_no_graph_hides_an_op_where_each_is_waited_for(waits: str, uses_graphs: bool) -> None:
    options = build_parser().parse_args(["serve", "file:///model.gguf"])
    config = engine_config(options, {"CUDA_LAUNCH_BLOCKING": waits})
    assert config.uses_graphs == uses_graphs


@pytest.mark.parametrize("flag", ["--client-timeout-seconds", "--queue-timeout-seconds"])
@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_flag_that_is_no_time_is_refused(
    flag: str, seconds: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some refused every body as too slow, others waited for ever."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "file:///model.gguf", flag, seconds])
    assert f"{flag}: {seconds} is no time; use seconds such as 30" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all addresses, the system takes its lower 16 bits without a word."""
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "file:///model.gguf", "--port", port])
    assert "--port: " + port in capsys.readouterr().err


async def test_address_that_is_none_is_told() -> None:
    """It was a traceback, or an unknown error."""
    sentence = "cannot listen on no-such-host.invalid:8000: .*(not known|name resolution); free it"
    with pytest.raises(StartError, match=sentence):
        async with opened(web.Application(), "no-such-host.invalid", 8000):
            pass


async def test_port_of_all_addresses_that_is_taken_is_told() -> None:
    with addresses.listen(0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"cannot listen on port {port}: Address already in"):
            async with opened(web.Application(), ServerConfig().host, port):
                pass
