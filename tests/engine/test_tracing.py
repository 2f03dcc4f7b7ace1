"""Spans arrive at a real OTLP endpoint, below the caller's span, without a word of the prompt."""

from __future__ import annotations

import gzip
import queue
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "a prompt that nobody else may read"  # noqa: S105 - not one


@pytest.fixture
def collector() -> Iterator[tuple[str, queue.Queue[bytes]]]:
    """The address of an OTLP endpoint and the bodies that it received."""
    bodies: queue.Queue[bytes] = queue.Queue()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_zipped = self.headers.get("content-encoding") == "gzip"
            bodies.put(gzip.decompress(body) if is_zipped else body)
            assert self.path == "/v1/traces"
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def test_generation_is_a_span_of_the_callers_trace(
    start_server: Callable[..., Any], tiny_llama: Path, collector: Any
) -> None:
    endpoint, bodies = collector
    flags = ("--served-model-name", "tiny", "--otlp-endpoint", endpoint)
    server = start_server(f"file://{tiny_llama}", *flags)
    server.wait_until("/ready", 200)
    body = {"model": "tiny", "prompt": SECRET, "max_tokens": 3, "seed": 5, "ignore_eos": True}
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    url = server.url + "/v1/completions"
    answer = httpx2.post(url, json=body, headers=headers, timeout=60).json()
    server.stop()  # sends what is left
    sent = bodies.get(timeout=60)
    assert SECRET.encode() not in sent
    request = ExportTraceServiceRequest.FromString(sent)
    (span,) = request.resource_spans[0].scope_spans[0].spans
    assert span.name == "text_completion tiny"
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    told = {one.key: one.value for one in span.attributes}
    assert told["gen_ai.operation.name"].string_value == "text_completion"
    assert told["gen_ai.request.max_tokens"].int_value == 3
    assert told["gen_ai.request.seed"].int_value == 5
    assert told["gen_ai.response.id"].string_value == answer["id"]
    assert told["gen_ai.usage.input_tokens"].int_value == answer["usage"]["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"].int_value == 3
    assert [v.string_value for v in told["gen_ai.response.finish_reasons"].array_value.values] == [
        "length"
    ]
    assert 0 < told["gen_ai.response.time_to_first_chunk"].double_value < 60
