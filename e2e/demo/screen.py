"""How the demo speaks: chapters, commands that a user could type, and what they print.

Knows the terminal and nothing of what happens. Where there is none, a live part prints its last
state once, so that a log reads well too.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text


@dataclass(slots=True)
class Screen:
    """The terminal, and the time since the story began."""

    console: Console = field(default_factory=lambda: Console(highlight=False))
    began_at: float = field(default_factory=time.monotonic)
    _chapters: int = 0

    @property
    def elapsed_seconds(self) -> float:
        return time.monotonic() - self.began_at

    def chapter(self, title: str, sentence: str) -> None:
        self._chapters += 1
        heading = f"[bold]{self._chapters}  {title}[/]  [dim]after {self.elapsed_seconds:.0f} s"
        self.console.print()
        self.console.print(Rule(heading, align="left"))
        self.console.print(sentence)

    def command(self, words: Sequence[str] | str) -> None:
        """Show a command as it can be typed in the project's folder."""
        text = words if isinstance(words, str) else typed(words, Path.cwd())
        self.console.print(Text.assemble(("$ ", "dim"), (text, "bold cyan")), soft_wrap=True)

    def file(self, path: str) -> None:
        """A file of the project, as `cat` would print it."""
        self.command(("cat", path))
        self.console.print(Syntax.from_path(path, background_color="default", word_wrap=True))

    def output(self, text: str) -> None:
        """What a command printed."""
        if text := text.strip():
            self.console.print(text, markup=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, soft_wrap=True)

    def fail(self, sentence: str) -> None:
        self.console.print(f"[red]✗[/] {escape(sentence)}", soft_wrap=True)

    @contextmanager
    def live(self) -> Iterator[Live]:
        with Live(console=self.console, refresh_per_second=8) as live:
            yield live
        if not self.console.is_terminal:
            self.console.print()  # there, rich leaves the cursor in the last line


def typed(words: Sequence[str], folder: Path) -> str:
    """A command line for a shell; paths below the folder become relative to it."""
    return shlex.join(word.removeprefix(f"{folder}/") for word in words)
