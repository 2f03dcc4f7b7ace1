"""One OpenTelemetry span for each generation, with the GenAI names; no prompt, no answer.

The libraries are imported only where an endpoint is set. The names are those of the semantic
conventions for generative AI, which are still in development.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from openinference_engine.version import VERSION

if TYPE_CHECKING:
    from openinference_engine.server.generation import Generation
    from openinference_engine.server.schema import GenerationRequest

_TRACES_PATH = "/v1/traces"


class Tracing:
    """Spans leave in the background, in batches; an endpoint that is away costs no request."""

    def __init__(self, endpoint: str) -> None:
        """`endpoint`: of OTLP over HTTP, the base to which the path of traces is added."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        service = {"service.name": "openinference-engine", "service.version": VERSION}
        self._provider = TracerProvider(resource=Resource.create(service))
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + _TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("openinference")
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        headers: Mapping[str, str],
        operation: str,
        request: GenerationRequest,
        generation: Generation,
    ) -> None:
        """The span of a generation that has just ended, below the one that `headers` name."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        now = time.time_ns()
        context = self._propagator.extract({"traceparent": headers.get("traceparent", "")})
        span = self._tracer.start_span(
            f"{operation} {request.model}",
            context,
            SpanKind.SERVER,
            {"gen_ai.operation.name": operation, **dict(_attributes(request, generation))},
            start_time=now - int(generation.age_seconds * 1e9),
        )
        if not all(generation.finish_reasons):
            span.set_status(Status(StatusCode.ERROR, "the answer was cut"))
        span.end(now)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()


def _attributes(request: GenerationRequest, generation: Generation) -> Iterator[tuple[str, Any]]:
    params, usage = generation.choices[0].params, generation.usage
    yield "gen_ai.provider.name", "openinference"
    yield "gen_ai.request.model", request.model
    yield "gen_ai.request.max_tokens", params.max_tokens
    yield "gen_ai.request.temperature", params.temperature
    yield "gen_ai.request.top_p", params.top_p
    yield "gen_ai.request.top_k", params.top_k
    yield "gen_ai.request.seed", params.seed
    yield "gen_ai.request.choice.count", request.n
    yield "gen_ai.request.stream", request.stream
    yield "gen_ai.response.id", generation.id
    yield "gen_ai.response.model", request.model
    yield "gen_ai.response.finish_reasons", [r or "abort" for r in generation.finish_reasons]
    yield "gen_ai.usage.input_tokens", usage["prompt_tokens"]
    yield "gen_ai.usage.output_tokens", usage["completion_tokens"]
    yield "gen_ai.usage.cache_read.input_tokens", generation.num_cached_tokens
    yield "gen_ai.latency.time_in_queue", generation.choices[0].timing.queue_seconds
    if (seconds := generation.first_token_seconds) is not None:
        yield "gen_ai.response.time_to_first_chunk", seconds
