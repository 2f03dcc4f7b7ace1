"""One change of the cluster at a time.

Two terminals, or a test run beside a demo, may call `up` at once; the second waits and then
finds everything up. The kernel releases the lock when its holder dies, however it dies.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.cluster.progress import console


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock at `path` while the block runs, waiting for whoever holds it before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("Waiting for another command that changes the cluster…")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
