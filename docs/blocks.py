"""The code blocks of the documentation, and how those that are marked are run.

A line `<!-- runnable -->` above a block says that a test runs it here, `<!-- runnable: cluster -->`
that one runs it against a cluster. In a console block lines after `$ ` are commands, which lines
indented by four continue; what else stands there must be seen in the output, with `…` for anything.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(
    r"(?:^<!-- runnable(?:: (?P<where>\w+))?(?P<marked>) -->\n)?"
    r"^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

BASH = ["bash", "-euo", "pipefail", "-c"]


@dataclass(frozen=True, slots=True)
class Block:
    """`where` a test runs it: "here", "cluster", or nowhere."""

    page: Path
    line: int
    language: str
    where: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def script(self) -> str:
        """What is typed, for bash."""
        lines = self.text.splitlines()
        typed = [
            line[2:] if line.startswith("$ ") else line for line in lines if self._is_typed(line)
        ]
        return "\n".join(typed) + "\n"

    def shown(self) -> list[str]:
        """What the page says that is seen."""
        lines = self.text.splitlines()
        return [line for line in lines if line.strip() and not self._is_typed(line)]

    def _is_typed(self, line: str) -> bool:
        return line.startswith(("$ ", "    "))


def pages() -> list[Path]:
    """What people wrote: the reference is generated."""
    written = (path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference")
    return [ROOT / "README.md", *sorted(written)]


def blocks(*languages: str) -> list[Block]:
    """Every block of every page, in order."""
    return [*_blocks(languages)]


def _blocks(languages: tuple[str, ...]) -> Iterator[Block]:
    for page in pages():
        text = page.read_text()
        for found in FENCE.finditer(text):
            if found["language"] in languages:
                where = "" if found["marked"] is None else found["where"] or "here"
                line = text.count("\n", 0, found.start("language")) + 1
                yield Block(page, line, found["language"], where, found["text"])


def run(block: Block, environment: Mapping[str, str], places: Mapping[str, str]) -> None:
    """Run a block; `places` are words of the page and what stands for them in the test.

    Raises AssertionError with all that was said when it fails or shows something else.
    """
    text = block.script() if block.language == "console" else block.text
    for word, place in places.items():
        text = text.replace(word, place)
    program = [sys.executable, "-c"] if block.language == "python" else BASH
    done = subprocess.run(  # noqa: S603  our own documentation
        [*program, text],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    said = done.stdout
    if done.returncode != 0:
        raise AssertionError(f"{block.name}\n{text}\n{said}")
    if block.language == "console":
        _compare(block, " ".join(said.split()))


def _compare(block: Block, said: str) -> None:
    """Each line that is shown must be seen, in this order."""
    for line in block.shown():
        parts = re.split(r"\s*…\s*", " ".join(line.split()))
        found = re.search(".*?".join(map(re.escape, parts)), said)
        if found is None:
            raise AssertionError(f"{block.name} does not show {line!r} there:\n{said}")
        said = said[found.end() :]
