"""An endpoint of OTLP over HTTP that prints each span as a line of JSON.

A pod runs it from its own text.
"""

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

PORT = 4318


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_zipped = self.headers["Content-Encoding"] == "gzip"
        request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if is_zipped else body)
        for resource in request.resource_spans:
            told = {each.key: each.value.string_value for each in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                line = {
                    "service": told["service.name"],
                    "trace": span.trace_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "span": span.span_id.hex(),
                    "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                }
                print(json.dumps(line), flush=True)
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: object) -> None:
        """Only spans are lines."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
