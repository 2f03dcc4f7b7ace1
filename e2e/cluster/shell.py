"""Running other programs, once and to their end.

All of the cluster is made by small Linux tools (ip, mount, ctr, kubectl). They are called
with an argument list, never through a shell, and a failure carries the tool's own last words.
Long-lived processes are in `processes`.
"""

import os
import subprocess
from collections.abc import Mapping

from e2e.cluster.errors import ClusterError


def run(
    *command: str,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 300,
) -> str:
    """Run a command and return what it printed; raise ClusterError if it fails."""
    try:
        finished = subprocess.run(
            command,
            input=stdin,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=True,
            timeout=timeout_seconds,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{command[0]} is not installed on this machine.") from error
    except subprocess.TimeoutExpired as error:
        line = " ".join(command)
        raise ClusterError(f"`{line}` did not end within {timeout_seconds:g} s.") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout or "it said nothing").strip()
        raise ClusterError(f"`{' '.join(command)}` failed: {said}") from error
    return finished.stdout


def succeeds(*command: str, environment: Mapping[str, str] | None = None) -> bool:
    """Say whether a command exists and exits with 0."""
    try:
        run(*command, environment=environment)
    except ClusterError:
        return False
    return True
