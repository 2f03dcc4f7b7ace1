"""One OpenTelemetry span for each client request; no prompt, no answer, no credential.

The libraries are imported only where an endpoint is set. Engines get the span as their parent, so
that a trace shows what was waiting here and what was computed there.
"""

from collections.abc import Mapping

from openinference_router.trace import Trace, is_traceparent

INTERNAL_ERROR = 500


class Spans:
    """Spans leave in the background, in batches; an endpoint that is away costs no request."""

    def __init__(self, endpoint: str, namespace: str) -> None:
        """`endpoint`: of OTLP over HTTP, the base to which the path of traces is added."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        service = {"service.name": "openinference-router", "service.namespace": namespace}
        self._provider = TracerProvider(resource=Resource.create(service))
        exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("openinference")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, trace: Trace, headers: Mapping[str, str]) -> None:
        """Below the client's span when it names one; engines are told of ours."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        given = headers.get("traceparent", "")
        context = self._propagator.extract({"traceparent": given} if is_traceparent(given) else {})
        name = f"{trace.method} {trace.path}"
        trace.span = self._tracer.start_span(name, context, SpanKind.SERVER)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(trace.span))
        trace.traceparent = carrier.get("traceparent", trace.traceparent)

    def end(self, trace: Trace) -> None:
        from opentelemetry.trace import Status, StatusCode

        if trace.span is None:
            return
        trace.span.set_attributes(
            {
                "http.request.method": trace.method,
                "http.response.status_code": trace.code,
                "url.path": trace.path,
                "gen_ai.request.model": trace.model,
                "openinference.request_id": trace.request_id,
                "openinference.service": trace.service,
                "openinference.groups": trace.groups,
                "openinference.failures": trace.failures,
                "openinference.held_seconds": trace.held_seconds,
            }
        )
        if trace.code >= INTERNAL_ERROR:
            trace.span.set_status(Status(StatusCode.ERROR))
        trace.span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()
