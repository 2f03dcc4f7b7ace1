"""What a command tells its user when it cannot go on: one sentence, the remedy, an exit code.

1  what was asked for failed: a request, a rollout, a check
2  wrong usage or input
3  the cluster cannot be reached, refuses, or lacks OpenInference
4  it was not reached in time
130  interrupted
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; scripts compare them."""

    FAILED = 1
    USAGE = 2
    CLUSTER = 3
    TIMEOUT = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command. `remedy` says what to do next; empty where the message does."""

    def __init__(self, message: str, remedy: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message
