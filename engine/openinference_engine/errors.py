"""What can go wrong, and who is told.

EngineError
├── BookkeepingError    a bug of ours: blocks or requests do not add up
├── StartError          the process cannot start: one sentence on stderr, exit code 2
└── RequestError        one request is refused (400); nothing else notices
    ├── ModelNotFound   404
    ├── BodyTooSlow     408
    ├── BodyTooLarge    413
    ├── QueueFull       429
    ├── Unauthorized    401
    ├── Unavailable     503, with Retry-After
    └── GenerationFailed  500: it was admitted, and computing it failed
"""

from __future__ import annotations


class EngineError(Exception):
    """The root of everything this package raises on purpose."""


class BookkeepingError(EngineError):
    """The books of blocks and requests do not balance; only a bug here can cause it."""


EXIT_RANK_LOST = 1  # of all processes of a group of ranks that has lost one
EXIT_CANNOT_START = 2  # what a process says that ended with StartError


class StartError(EngineError):
    """The engine cannot start; the message names what, its value and the remedy."""


class RequestError(EngineError):
    """One request is refused; `field` is the path of the offending field, if there is one."""

    status = 400
    kind = "invalid_request_error"
    code: str | None = None

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class ModelNotFound(RequestError):
    status = 404
    code = "model_not_found"


class BodyTooLarge(RequestError):
    status = 413
    code = "body_too_large"


class BodyTooSlow(RequestError):
    status = 408
    code = "body_too_slow"


class Unauthorized(RequestError):
    status = 401
    kind = "authentication_error"
    code = "invalid_token"


class QueueFull(RequestError):
    status = 429
    kind = "rate_limit_error"
    code = "queue_full"


class Unavailable(RequestError):
    status = 503
    kind = "service_unavailable_error"
    code = "unavailable"


class GenerationFailed(RequestError):
    status = 500
    kind = "server_error"
    code = "generation_failed"
