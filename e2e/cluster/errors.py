"""What the local cluster can say went wrong.

Every message is one sentence for the person at the terminal and names the remedy; the command
line prints it without a traceback. Two classes, because scripts want to tell "this machine
cannot do it" (exit code 2) from "it should have worked" (exit code 1).
"""


class ClusterError(Exception):
    """Something failed that should have worked; the message names the log to read."""


class UnsupportedMachine(ClusterError):
    """This machine lacks something; the message says what, and how to get it."""
