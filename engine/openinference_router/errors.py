"""What can go wrong, as two exceptions.

    Refusal        an answer: an HTTP status and OpenAI's error object, final for the client
    AttemptFailed  one group did not answer a request to its end; the next attempt may
    └ Moved        nobody's fault: the stream goes on where it can be finished

Nothing else leaves the request path: an engine's own 4xx and 5xx are passed on as they came.
"""

import msgspec

UNAVAILABLE = "service_unavailable_error"
"""The `type` of errors that another replica may not have."""

INTERNAL = "server_error"
"""The `type` of errors that are nobody's fault but the server's: those with status 500."""


class Refusal(Exception):
    """A request that the router answers itself, with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        parameter: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.parameter = parameter
        self.retry_after_seconds = retry_after_seconds

    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.parameter,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def headers(self) -> dict[str, str]:
        if self.retry_after_seconds is None:
            return {}
        return {"Retry-After": str(self.retry_after_seconds)}


def unavailable(message: str, *, code: str = "no_capacity") -> Refusal:
    """503: nothing can answer now; a later try may."""
    return Refusal(503, message, kind=UNAVAILABLE, code=code, retry_after_seconds=5)


def overloaded(message: str, *, code: str) -> Refusal:
    """429: there is capacity, and others are using it."""
    return Refusal(429, message, kind="rate_limit_error", code=code, retry_after_seconds=1)


class AttemptFailed(Exception):
    """An attempt ended before its answer was complete.

    `is_broken` tells a group that broke (refused, reset, cut, stalled, rubbish) from one that
    politely declined (503 draining, 429 full): only the first is held against it.
    """

    def __init__(self, reason: str, *, is_broken: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_broken = is_broken

    @property
    def outcome(self) -> str:
        """As metrics call it."""
        return "failed" if self.is_broken else "declined"


class Moved(AttemptFailed):
    """The router itself ended the attempt: its group will not be there until the answer is."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, is_broken=False)

    @property
    def outcome(self) -> str:
        return "moved"
