"""What a model is, without fetching its weights: headers alone, a few megabytes of any model.

Each file is made in a temporary folder with its true size and only its header in it; the rest is a
hole that takes no space. What reads checkpoints then reads it like any other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from openinference_engine.errors import StartError
from openinference_engine.weights.gguf import CutShort, GGUFFile
from openinference_engine.weights.prepare import Prepared, model_path, prepare
from openinference_engine.weights.source import RangesUnsupported, Source, SourceFile
from openinference_engine.weights.sources import is_remote, open_source
from openinference_engine.weights.summary import summarise

FIRST_BYTES = 4 << 20  # holds the vocabulary of most GGUF files
MAX_GGUF_HEADER_BYTES = 256 << 20
MAX_SAFETENSORS_HEADER_BYTES = 100 << 20  # the format's own limit is a little less


def inspect(uri: str, revision: str = "") -> Prepared:
    """What a model is. Raises StartError with the remedy."""
    if not is_remote(uri):
        return prepare(uri, Path(), lambda *_: None)
    source = open_source(uri, revision)
    with tempfile.TemporaryDirectory(prefix="openinference-") as name:
        for file in source.files:
            _write_header(source, file, Path(name) / file.name)
        path = model_path(uri, Path(name))
        summary = summarise(path, headers_alone=True)
        return Prepared(uri, revision, source.revision, "", source.num_bytes, (), summary)


def _write_header(source: Source, file: SourceFile, path: Path) -> None:
    if file.name.endswith(".safetensors"):
        length = int.from_bytes(_read(source, file, 8), "little")
        if length > MAX_SAFETENSORS_HEADER_BYTES:
            raise _too_long(file, f"of {length} bytes")
        path.write_bytes(_read(source, file, 8 + length))
    elif file.name.endswith(".gguf"):
        _write_gguf_header(source, file, path)
    else:
        path.write_bytes(_read(source, file, file.num_bytes))
    with path.open("r+b") as out:
        out.truncate(file.num_bytes)


def _write_gguf_header(source: Source, file: SourceFile, path: Path) -> None:
    """A GGUF file does not tell the length of its header: read more until it is whole."""
    size = FIRST_BYTES
    while size <= MAX_GGUF_HEADER_BYTES:
        path.write_bytes(_read(source, file, size))
        if size >= file.num_bytes or _has_whole_header(path):
            return
        size *= 2
    raise _too_long(file, f"of more than {MAX_GGUF_HEADER_BYTES} bytes")


def _has_whole_header(path: Path) -> bool:
    try:
        GGUFFile(path)
    except CutShort as cut:
        return cut.has_whole_header
    return True


def _too_long(file: SourceFile, length: str) -> StartError:
    return StartError(
        f"{file.path} has a header {length}; it is damaged or another file: upload it again, or"
        " correct model.uri"
    )


def _read(source: Source, file: SourceFile, end: int) -> bytes:
    """The first bytes of a file, also from a server that knows no ranges."""
    end = min(end, file.num_bytes)
    try:
        return source.read(file, 0, end)
    except RangesUnsupported:
        content = b""
        for piece in source.stream(file):
            content += piece
            if len(content) >= end:
                break
        return content[:end]
