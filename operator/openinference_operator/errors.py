"""The errors of the operator.

    OperatorError
    ├── SpecError        the InferenceService says something impossible; wait for a new spec
    ├── NameConflict     an object of the same name is not ours; wait until it is gone
    ├── LeaseLost        another replica of the operator may be acting; write nothing
    └── ApiError         the API server refused a call; retry with back-off
        ├── NotFound         404
        ├── AlreadyExists    409, on create
        └── Conflict         409, the object has changed meanwhile

The first two become conditions of the InferenceService, the others a retry of its key.
"""


class OperatorError(Exception):
    """Base of all errors that the operator raises itself."""


class SpecError(OperatorError):
    """A field of an InferenceService has an impossible value."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NameConflict(OperatorError):
    """An object that the plan needs exists already and belongs to somebody else."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(
            f"{kind} {name!r} exists and does not belong to this InferenceService; "
            "delete or rename it, or give the InferenceService another name"
        )


class LeaseLost(OperatorError):
    """The leader's lease may have run out by the clock of this replica."""


class ApiError(OperatorError):
    """The API server answered with an error, or not at all (status 0).

    `retry_after_seconds`: how long it wants to be left alone, where it says so (429).
    """

    def __init__(self, status: int, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_refusal(self) -> bool:
        """Whether the same call will be refused again: bad, forbidden or invalid."""
        return self.status in (400, 403, 405, 413, 415, 422)


class NotFound(ApiError):
    """The object does not exist."""


class AlreadyExists(ApiError):
    """An object of that name exists already."""


class Conflict(ApiError):
    """The object is not the one, or not in the version, that the call was meant for."""
