"""What the person at the terminal sees while the cluster starts.

Steps print one line each when they are done, with the seconds they took; while one runs, a
spinner names it. All of it goes to stderr, so that what a command answers on stdout (a path, a
node's name, shell commands) can be used by scripts.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console(stderr=True, highlight=False)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Show a spinner while the block runs and a line with its time after it."""
    began = time.monotonic()
    with console.status(title):
        yield
    console.print(f"[green]✓[/] {title} [dim]{time.monotonic() - began:.1f} s[/]")
