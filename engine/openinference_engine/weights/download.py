"""Fetches one file: in parallel ranges, in order, with a checksum, and on from where it was cut.

A file grows as `<name>.<version>.part` and keeps that name until all files of its model are whole:
then `prepare` gives them theirs. Ranges are read ahead on a few connections and appended in order,
so the size of the part is all the state there is: the next attempt, also of another process, hashes
what is there and goes on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from openinference_engine.errors import StartError
from openinference_engine.weights.source import RangesUnsupported, Source, SourceFile, first_line

log = logging.getLogger(__name__)

RANGE_BYTES = 8 << 20
CONNECTIONS = 8  # 64 MiB in flight: several times what one connection to an object store gives
ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5  # doubled each time: 15 s in all, then the process ends and is restarted

OnBytes = Callable[[int], None]


def fetch(source: Source, file: SourceFile, folder: Path, on_bytes: OnBytes) -> str:
    """Brings a file into its part, whole and checked, and returns its SHA-256.

    `on_bytes` is told of every piece, also of those that were there. Raises StartError.
    """
    part = part_path(folder, file)
    for stale in set(folder.glob(f"{file.name}.*.part")) - {part}:
        stale.unlink()  # the beginning of a version that is no more
    digest = hashlib.sha256()
    with part.open("a+b") as out:
        have = _rehash(out.fileno(), digest, on_bytes)
        for piece in _pieces(source, file, have):
            digest.update(piece)
            out.write(piece)
            on_bytes(len(piece))
        out.flush()
        os.fsync(out.fileno())
    _check(file, part, digest.hexdigest())
    return digest.hexdigest()


def part_path(folder: Path, file: SourceFile) -> Path:
    """Where a file grows. Another version of it grows elsewhere."""
    version = hashlib.sha256(f"{file.version}/{file.num_bytes}".encode()).hexdigest()[:12]
    return folder / f"{file.name}.{version}.part"


def _rehash(descriptor: int, digest: hashlib._Hash, on_bytes: OnBytes) -> int:
    """Hash what an earlier attempt left, and return how much that is."""
    position = 0
    while piece := os.pread(descriptor, RANGE_BYTES, position):
        digest.update(piece)
        position += len(piece)
        on_bytes(len(piece))
    return position


def _pieces(source: Source, file: SourceFile, start: int) -> Iterator[bytes]:
    """The bytes from `start` on, in order."""
    position = start
    try:
        for piece in _ranges(source, file, start):
            position += len(piece)
            yield piece
    except RangesUnsupported:
        yield from _whole(source, file, position)


def _ranges(source: Source, file: SourceFile, start: int) -> Iterator[bytes]:
    """Ranges of a file in order, a few of them read ahead."""
    waiting: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="fetch")
    try:
        for begin in range(start, file.num_bytes, RANGE_BYTES):
            end = min(begin + RANGE_BYTES, file.num_bytes)
            waiting.append(pool.submit(_read_patiently, source, file, begin, end))
            if len(waiting) == CONNECTIONS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _whole(source: Source, file: SourceFile, skip: int) -> Iterator[bytes]:
    """A file from a server that knows no ranges: read again from its beginning after a cut."""
    for attempt in range(ATTEMPTS):
        position = 0
        try:
            for piece in source.stream(file):
                position += len(piece)
                fresh = piece[-(position - skip) :] if position > skip else b""
                skip += len(fresh)
                if fresh:
                    yield fresh
            if skip >= file.num_bytes:
                return
            raise ConnectionError(f"the server ended after {position} of {file.num_bytes} bytes")
        except Exception as error:
            _pause_or_give_up(file, attempt, error)


def _read_patiently(source: Source, file: SourceFile, start: int, end: int) -> bytes:
    attempt = 0
    while True:
        try:
            piece = source.read(file, start, end)
            if len(piece) == end - start:
                return piece
            raise ConnectionError(f"{len(piece)} of {end - start} bytes came")
        except RangesUnsupported:
            raise
        except Exception as error:  # each backend has errors of its own
            _pause_or_give_up(file, attempt, error)
            attempt += 1


def _pause_or_give_up(file: SourceFile, attempt: int, error: Exception) -> None:
    """Wait before the next attempt. Raises StartError when another one is of no use."""
    told = first_line(error)
    if isinstance(error, StartError):
        raise error
    if isinstance(error, (FileNotFoundError, PermissionError)):
        raise StartError(f"{file.path} cannot be read: {told}; check name and credentials")
    if attempt + 1 >= ATTEMPTS:
        raise StartError(
            f"{file.path}: {ATTEMPTS} attempts failed, the last with: {told};"
            " what was fetched stays, and the next start goes on from there"
        ) from error
    log.warning(
        "download cut", extra={"fields": {"file": file.name, "attempt": attempt + 1, "error": told}}
    )
    time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)


def _check(file: SourceFile, part: Path, digest: str) -> None:
    """Raises StartError, and removes the part, if it is not the file that was promised."""
    size = part.stat().st_size
    if size == file.num_bytes and file.sha256 in (None, digest):
        return
    part.unlink()
    if size != file.num_bytes:
        raise StartError(
            f"{file.path} has {size} bytes instead of {file.num_bytes}; fetch it again"
        )
    raise StartError(
        f"{file.path} has SHA-256 {digest} instead of {file.sha256}; it was damaged on the way or"
        " is another file: fetch it again, or correct model.sha256"
    )
