"""Engines under measurement, each in a process of its own: commands on stdin, seconds on stdout.

    python benchmarks/cpu_workers.py <engine> <model.gguf> <threads>

A command is one JSON line {"prompts": [[id, …], …], "outputs": n}: read all prompts, then draw n
tokens greedily for each. The answer is {"prefill": seconds until the first tokens are drawn,
"decode": seconds for the n - 1 tokens after them}. Prompts are random ids of equal length, so no
engine can reuse an earlier one. Run by path, so that an engine may live in another environment.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

Prompts = list[list[int]]


class Worker(Protocol):
    def prefill(self, prompts: Prompts) -> None:
        """Forgets what was before, reads the prompts and draws the first token of each."""

    def decode(self) -> None:
        """Draws one more token of each."""


class OpenInference:
    """The whole engine in this process: scheduler, runner, sampling."""

    def __init__(self, path: str, dtype: Any) -> None:
        from openinference_engine.config import EngineConfig
        from openinference_engine.engine import Engine
        from openinference_engine.request import Request
        from openinference_engine.weights.checkpoint import open_checkpoint
        from openinference_engine.weights.uri import resolve

        config = EngineConfig(
            f"file://{path}",
            dtype=dtype,
            max_model_len=1024,
            max_sequences=32,
            max_step_tokens=512,
            prefix_caching=False,
        )
        self._engine = Engine(open_checkpoint(resolve(config.model_uri)), config)
        self._engine.warm_up()
        self._requests: list[Request] = []

    def prefill(self, prompts: Prompts) -> None:
        from openinference_engine.request import Request, SamplingParams

        for request in self._requests:
            self._engine.abort(request.id)
        params = SamplingParams(seed=0, max_tokens=1000, temperature=0)
        self._requests = [Request(str(index), ids, params) for index, ids in enumerate(prompts)]
        for request in self._requests:
            self._engine.add(request)
        while not all(request.num_outputs for request in self._requests):
            self._engine.step()

    def decode(self) -> None:
        self._engine.step()


class LlamaCpp:
    """llama.cpp through its C interface: one context, one sequence per prompt, greedy."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._api = llama_cpp
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = 32 * 1024, 32, True
        params.n_batch = params.n_ubatch = 1024
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(1024, 0, 1)

    def prefill(self, prompts: Prompts) -> None:
        self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
        self._next = [self._read(index, ids) for index, ids in enumerate(prompts)]
        self._position = len(prompts[0])

    def decode(self) -> None:
        self._batch.n_tokens = 0
        for sequence, token in enumerate(self._next):
            self._put(token, self._position, sequence, True)
        self._compute()
        self._next = [self._likeliest(index) for index in range(len(self._next))]
        self._position += 1

    def _read(self, sequence: int, ids: list[int]) -> int:
        self._batch.n_tokens = 0
        for position, token in enumerate(ids):
            self._put(token, position, sequence, position == len(ids) - 1)
        self._compute()
        return self._likeliest(len(ids) - 1)

    def _put(self, token: int, position: int, sequence: int, draws: bool) -> None:
        batch, place = self._batch, self._batch.n_tokens
        batch.token[place], batch.pos[place] = token, position
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        batch.logits[place] = draws
        batch.n_tokens += 1

    def _compute(self) -> None:
        if self._api.llama_decode(self._context, self._batch):
            raise RuntimeError("llama_decode failed")

    def _likeliest(self, place: int) -> int:
        import numpy as np

        logits = self._api.llama_get_logits_ith(self._context, place)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())


class Transformers:
    """transformers in float32 on torch's own kernels, its cache, greedy."""

    def __init__(self, path: str, threads: int) -> None:
        import torch
        from openinference_engine.weights.checkpoint import open_checkpoint
        from openinference_engine.weights.loader import Weights
        from openinference_engine.weights.uri import resolve
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.set_num_threads(threads)
        checkpoint = open_checkpoint(resolve(f"file://{path}"))
        shape = checkpoint.config
        config = LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            rms_norm_eps=shape.rms_norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            max_position_embeddings=shape.max_positions,
            tie_word_embeddings=shape.ties_embeddings,
        )
        self._torch = torch
        model: Any = LlamaForCausalLM(config)
        self._model = model.float().eval()
        weights = Weights(checkpoint, torch.float32)
        for name, parameter in self._model.named_parameters():
            parameter.data.copy_(weights.tensor(name, tuple(parameter.shape)))

    def prefill(self, prompts: Prompts) -> None:
        self._cache = None
        self._forward(self._torch.tensor(prompts))

    def decode(self) -> None:
        self._forward(self._next[:, None])

    def _forward(self, ids: Any) -> None:
        with self._torch.inference_mode():
            output = self._model(ids, past_key_values=self._cache, logits_to_keep=1)
        self._cache = output.past_key_values
        self._next = output.logits[:, -1].argmax(-1)


def build(engine: str, path: str, threads: int) -> Worker:
    match engine:
        case "openinference":
            return OpenInference(path, "auto")
        case "openinference-float32":
            return OpenInference(path, "float32")
        case "llama.cpp":
            return LlamaCpp(path, threads)
        case "transformers":
            return Transformers(path, threads)
    raise SystemExit(f"engine {engine!r} is unknown")


def measure(worker: Worker, prompts: Prompts, outputs: int) -> dict[str, float]:
    started = time.perf_counter()
    worker.prefill(prompts)
    read = time.perf_counter()
    for _ in range(outputs - 1):
        worker.decode()
    return {"prefill": read - started, "decode": time.perf_counter() - read}


def main(engine: str, path: str, threads: str) -> None:
    worker = build(engine, path, int(threads))
    print(json.dumps({"ready": engine}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(measure(worker, command["prompts"], command["outputs"])), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
