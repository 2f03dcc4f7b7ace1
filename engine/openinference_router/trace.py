"""What befell one request: the line of the access log and the source of the request metrics.

Prompts, answers and credentials are never here. `request_id` and `traceparent` come from the
client where they are well-formed, else they are made here, and go on to the engine.
"""

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from openinference_router.errors import AttemptFailed

if TYPE_CHECKING:
    from opentelemetry.trace import Span

CLIENT_GONE = 499
"""The status of a request whose client left before its end, as nginx numbers it."""

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Trace:
    """Times in seconds of the monotonic clock."""

    path: str
    request_id: str
    traceparent: str
    method: str = "POST"
    span: "Span | None" = None
    """Of OpenTelemetry, where that is switched on."""
    key: str = ""
    service: str = ""
    model: str = ""
    is_stream: bool = False
    code: int = 0
    groups: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Why each attempt ended before its answer did."""
    outcomes: list[str] = field(default_factory=list)
    """What metrics call these ends."""
    held_seconds: float = 0.0
    num_tokens: int = 0
    """Of prompt and answer; estimated where the engine was not asked for usage."""
    added_seconds: float | None = None
    """Spent in the router itself until the first byte: neither held nor waiting for an engine."""
    first_token_seconds: float | None = None
    """From the arrival of a streamed request to its first byte, all waiting included."""
    arrived_at: float = field(default_factory=time.monotonic)

    @property
    def headers(self) -> dict[str, str]:
        """What engines are told of it."""
        return {
            "Content-Type": "application/json",
            REQUEST_ID_HEADER: self.request_id,
            "traceparent": self.traceparent,
        }

    def answered(self, code: int, engine_seconds: float) -> None:
        """The first byte of an answer is there, `engine_seconds` after it was asked for."""
        if self.added_seconds is None:
            self.code = code
            passed = time.monotonic() - self.arrived_at
            self.added_seconds = passed - self.held_seconds - engine_seconds
            if self.is_stream:
                self.first_token_seconds = passed

    def failed(self, failure: AttemptFailed) -> None:
        """The attempt in the last of `groups` is over, its answer is not."""
        self.failures.append(failure.reason)
        self.outcomes.append(failure.outcome)

    def line(self) -> dict[str, object]:
        """Fields of the access log."""
        return {
            "requestId": self.request_id,
            "traceparent": self.traceparent,
            "path": self.path,
            "key": self.key,
            "service": self.service,
            "model": self.model,
            "stream": self.is_stream,
            "code": self.code,
            "groups": self.groups,
            "failures": self.failures,
            "tokens": self.num_tokens,
            "heldSeconds": round(self.held_seconds, 4),
            "durationSeconds": round(time.monotonic() - self.arrived_at, 4),
        }


TRACE = web.RequestKey("trace", Trace)


def start_trace(path: str, headers: Mapping[str, str], method: str = "POST") -> Trace:
    request_id = headers.get(REQUEST_ID_HEADER, "")
    traceparent = headers.get("traceparent", "")
    return Trace(
        path=path,
        method=method,
        request_id=request_id if _REQUEST_ID.fullmatch(request_id) else secrets.token_hex(16),
        traceparent=traceparent if is_traceparent(traceparent) else _new_traceparent(),
    )


def is_traceparent(text: str) -> bool:
    """Well-formed, as W3C wants it."""
    return _TRACEPARENT.fullmatch(text) is not None


def _new_traceparent() -> str:
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
