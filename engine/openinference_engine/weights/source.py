"""The files of a model somewhere else, and which of them an engine reads.

Only safetensors, GGUF and what describes them is ever chosen: no pickle, no code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from openinference_engine.errors import StartError

_QUERY = re.compile(r"\?[^\s'\"]+")
_COMPANIONS = (".json", ".jinja")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class RangesUnsupported(Exception):
    """The server sends whole files only."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to fetch. `version` changes with the content; `sha256` if the source knows it."""

    name: str
    path: str
    num_bytes: int
    version: str
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a model at one revision.

    `revision`: a commit, or the version of a single file; empty where the source has none.
    `read(file, start, end)`: those bytes. Raises RangesUnsupported.
    `stream(file)`: the whole file from its beginning.
    """

    revision: str
    files: tuple[SourceFile, ...]
    read: Callable[[SourceFile, int, int], bytes]
    stream: Callable[[SourceFile], Iterator[bytes]]

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


def choose_files(uri: str, files: list[SourceFile]) -> tuple[SourceFile, ...]:
    """What of a folder an engine reads. Raises StartError if it holds no weights for it."""
    weights = [file for file in files if file.name.endswith(".safetensors")]
    if not weights:
        raise StartError(f"{uri} holds no .safetensors file; {hint(files)}")
    if any(file.name.startswith("model") for file in weights):
        # Mistral's repositories hold all weights a second time, under this name.
        weights = [file for file in weights if not file.name.startswith("consolidated")]
    described = [file for file in files if file.name.endswith(_COMPANIONS)]
    return tuple(sorted([*described, *weights], key=lambda file: (file.num_bytes, file.name)))


def hint(files: list[SourceFile]) -> str:
    """What to name instead of a folder that holds these."""
    gguf = sorted(file.name for file in files if file.name.endswith(".gguf"))
    if gguf:
        return f"name one of its GGUF files, such as …/{gguf[0]}"
    if any(file.name.endswith(_PICKLED) for file in files):
        return "pickled weights can run code and are not read; convert them to safetensors"
    return "name a folder with safetensors files, or one .gguf file"


def one_file(uri: str, files: list[SourceFile], name: str) -> tuple[SourceFile, ...]:
    """The one of that name. Raises StartError if there is none, or it is no GGUF file."""
    found = [file for file in files if file.name == name]
    if not found or not name.endswith(".gguf"):
        raise StartError(f"{uri} does not name a .gguf file of the repository; {hint(files)}")
    return tuple(found)


def first_line(error: BaseException) -> str:
    """Or its type, if it says nothing; without what a link is signed by."""
    return _QUERY.sub("?…", (str(error) or type(error).__name__).splitlines()[0])
