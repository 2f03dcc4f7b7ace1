"""`python -m openinference_engine serve <uri> …`: flags and environment → configs → the server."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from openinference_engine.config import (
    ActivationChoice,
    DataType,
    Device,
    EngineConfig,
    GroupConfig,
    ReasoningFormat,
    ServerConfig,
    WeightChoice,
)
from openinference_engine.errors import EXIT_CANNOT_START, StartError
from openinference_engine.kv_formats import KVCacheDtype
from openinference_engine.log import configure_logging
from openinference_engine.parsers.formats import FORMATS


def main(arguments: Sequence[str] | None = None) -> int:
    # As PID 1 of a container we would ignore SIGTERM until the server's own handler is there.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options = build_parser().parse_args(arguments)
    configure_logging()
    # The core starts at once: what the API process imports from here on overlaps with torch.
    from openinference_engine.ranks.pod import serve_pod
    from openinference_engine.server.serve import serve

    try:
        server, engine = server_config(options, os.environ), engine_config(options, os.environ)
        return asyncio.run(serve_pod(server, engine) if engine.group.pod else serve(server, engine))
    except StartError as error:
        print(f"openinference: {error}", file=sys.stderr)
        return EXIT_CANNOT_START


def build_parser() -> argparse.ArgumentParser:
    engine, server = EngineConfig(""), ServerConfig()
    parser = argparse.ArgumentParser(prog="openinference")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="serve one model over the OpenAI API")
    add = serve.add_argument
    add("uri", help="package://module/file.gguf, file:///path.gguf or file:///folder")
    add("--host", default=server.host, help="address to listen on; default: all")
    add("--port", type=_port, default=server.port, help="default: 8000")
    add("--served-model-name", help="default: the file name of the model")
    add("--tool-parser", choices=list(FORMATS), help="default: what the chat template shows")
    add("--reasoning-parser", choices=get_args(ReasoningFormat), help="default: the same")
    add("--token-file", type=Path, help="answer only requests that carry this token")
    add("--max-waiting", type=_count, default=server.max_waiting, help="more are refused with 429")
    timeout = server.drain_timeout_seconds
    add(
        "--drain-timeout-seconds",
        type=_seconds_or_zero,
        default=timeout,
        help="for requests, once told to end",
    )
    add("--otlp-endpoint", help="send spans there; default: OTEL_EXPORTER_OTLP_ENDPOINT")
    add("--max-body-bytes", type=_positive, default=server.max_body_bytes, help="more: 413")
    timeout = server.client_timeout_seconds
    add("--client-timeout-seconds", type=_seconds, default=timeout, help="for a client that hangs")
    add("--max-model-len", type=_positive, help="default: what the model was trained for")
    add("--max-sequences", type=_positive, default=engine.max_sequences, help="seats")
    add("--dtype", choices=get_args(DataType), default=engine.dtype, help="of weights in memory")
    add("--device", choices=get_args(Device), default=engine.device, help="what computes")
    add("--weights", choices=get_args(WeightChoice), default=engine.weights, help="on a GPU")
    add(
        "--activations",
        choices=get_args(ActivationChoice),
        default=engine.activations,
        help="GPU, dense models on one: codes by the weights', from 33 rows on; auto: bfloat16",
    )
    add("--no-graphs", dest="uses_graphs", action="store_false", help="GPU: launch each kernel")
    add("--no-overlap", dest="overlaps_kernels", action="store_false", help="GPU: one at a time")
    add("--no-run-ahead", dest="runs_ahead", action="store_false", help="GPU: wait for tokens")
    add("--deterministic", action="store_true", help="GPU: the same bits in every batch, slower")
    add(
        "--kv-cache-dtype",
        choices=get_args(KVCacheDtype),
        default=engine.kv_cache_dtype,
        help="of keys and values; auto: what computes",
    )
    add("--kv-cache-bytes", type=_positive, help="default: all seats, what is spare")
    add("--max-step-tokens", type=_positive, default=engine.max_step_tokens, help="of one step")
    add(
        "--ageing-seconds",
        type=_seconds_or_zero,
        default=engine.ageing_seconds,
        help="worth of one class",
    )
    add("--queue-timeout-seconds", type=_seconds, help="longest wait for a seat, then 503")
    add("--no-prefix-caching", dest="prefix_caching", action="store_false", help="compute all anew")
    _add_group_flags(serve)
    return parser


def _add_group_flags(serve: argparse.ArgumentParser) -> None:
    """docs/wire.md, "A group of ranks"."""
    group, add = GroupConfig(), serve.add_argument
    add("--pipeline", type=_positive, default=1, help="stages that the layers are divided into")
    add("--tensor", type=_positive, default=1, help="ranks that share every matrix")
    add("--expert", type=_positive, default=1, help="ranks that whole experts are spread over")
    add("--pods", type=_positive, default=1, help="pods of the group, with an equal part each")
    add("--pod-index", type=_count, help="of this pod; default: OPENINFERENCE_POD_INDEX, else 0")
    add("--rendezvous", help="host:port where pod 0 meets the others")
    seconds = group.rendezvous_timeout_seconds
    add(
        "--rendezvous-timeout-seconds", type=_seconds, default=seconds, help="for all ranks to come"
    )


def engine_config(
    options: argparse.Namespace, environment: Mapping[str, str] | None = None
) -> EngineConfig:
    """Raises StartError if the ranks do not fit the pods."""
    environment = environment or {}
    # The driver's own switch, for which op fails: a graph launches all ops of a step at once.
    waits_for_each_op = environment.get("CUDA_LAUNCH_BLOCKING") == "1"
    return EngineConfig(
        model_uri=options.uri,
        max_model_len=options.max_model_len,
        max_sequences=options.max_sequences,
        dtype=options.dtype,
        device=options.device,
        weights=options.weights,
        activations=options.activations,
        uses_graphs=options.uses_graphs and not waits_for_each_op,
        overlaps_kernels=options.overlaps_kernels,
        runs_ahead=options.runs_ahead,
        is_deterministic=options.deterministic,
        kv_cache_dtype=options.kv_cache_dtype,
        kv_cache_bytes=options.kv_cache_bytes,
        max_step_tokens=options.max_step_tokens,
        prefix_caching=options.prefix_caching,
        ageing_seconds=options.ageing_seconds,
        queue_timeout_seconds=options.queue_timeout_seconds,
        group=_group_config(options, environment),
    )


def _group_config(options: argparse.Namespace, environment: Mapping[str, str]) -> GroupConfig:
    index = environment.get("OPENINFERENCE_POD_INDEX") or "0"
    if not index.isdigit():
        raise StartError(f"OPENINFERENCE_POD_INDEX is {index!r}; use a whole number from 0 on")
    return GroupConfig(
        pipeline=options.pipeline,
        tensor=options.tensor,
        expert=options.expert,
        pods=options.pods,
        pod=int(index) if options.pod_index is None else options.pod_index,
        rendezvous=options.rendezvous,
        rendezvous_timeout_seconds=options.rendezvous_timeout_seconds,
        image=environment.get("OPENINFERENCE_IMAGE", ""),
    )


def server_config(options: argparse.Namespace, environment: Mapping[str, str]) -> ServerConfig:
    """Raises StartError if the token file cannot be read."""
    return ServerConfig(
        host=options.host,
        port=options.port,
        served_model_name=options.served_model_name,
        tool_parser=options.tool_parser,
        reasoning_parser=options.reasoning_parser,
        token=_read_token(options.token_file),
        max_waiting=options.max_waiting,
        drain_timeout_seconds=options.drain_timeout_seconds,
        max_body_bytes=options.max_body_bytes,
        client_timeout_seconds=options.client_timeout_seconds,
        otlp_endpoint=options.otlp_endpoint or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
        namespace=environment.get("OPENINFERENCE_NAMESPACE", ""),
        service=environment.get("OPENINFERENCE_SERVICE", ""),
        group=environment.get("OPENINFERENCE_GROUP", ""),
    )


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        token = path.read_text().strip()
    except OSError as error:
        raise StartError(f"--token-file {path}: {error.strerror}; mount the token") from error
    if not token:
        raise StartError(f"--token-file {path} is empty; write the token into it")
    return token


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not allowed; use 1 or more")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is not allowed; use 0 or more")
    return value


def _port(text: str) -> int:
    value = _positive(text)
    if value > 65535:  # of all addresses, the system would take another one
        raise argparse.ArgumentTypeError(f"{value} is no port; use 1 to 65535")
    return value


def _seconds(text: str) -> float:
    value = _seconds_or_zero(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text} is no time; use seconds such as 30")
    return value


def _seconds_or_zero(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time; use seconds such as 30")
    return value


if __name__ == "__main__":
    sys.exit(main())
