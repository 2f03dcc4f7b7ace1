"""Brings a model to where engines can open it: once, whole, checked, and never again.

A folder holds one model at one revision. Its record is written last; while it is there and the
files have their sizes, nothing is fetched. Several processes may prepare one folder, also from
several nodes: a file lock lets one of them fetch, the others wait and then find the record.
What is on this machine already (file://, package://) is only looked at.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

import msgspec

from openinference_engine.errors import StartError
from openinference_engine.weights.download import fetch, part_path
from openinference_engine.weights.source import Source, SourceFile
from openinference_engine.weights.sources import is_remote, open_source
from openinference_engine.weights.summary import Summary, summarise
from openinference_engine.weights.uri import resolve

RECORD = ".openinference.json"
LOCK = ".openinference.lock"
LOCK_POLL_SECONDS = 1.0

Report = Callable[[int, int], None]
"""Is told (downloaded, total) bytes; (0, 0) while another process fetches the same model."""


class PreparedFile(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    num_bytes: int
    sha256: str


class Prepared(msgspec.Struct, frozen=True, rename="camel"):
    """A model that is there. `path`: where an engine opens it. `revision`: what was asked for."""

    uri: str
    revision: str
    resolved_revision: str
    path: str
    num_bytes: int
    files: tuple[PreparedFile, ...]
    summary: Summary


def prepare(
    uri: str, folder: Path, report: Report, revision: str = "", sha256: str = ""
) -> Prepared:
    """Fetch a model into a folder unless it is there. Raises StartError with the remedy.

    `revision`: branch, tag or commit of an hf:// repository, resolved to a commit once.
    `sha256`: what the checksum of a single file must be.
    """
    if not is_remote(uri):
        return _look_at(uri, resolve(uri))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / LOCK, report):
            known = read_record(folder, uri, revision)
            if known is not None and sha256 in ("", *(file.sha256 for file in known.files)):
                return known
            return _fetch_all(uri, revision, sha256, folder, report)
    except OSError as error:
        raise StartError(_explain(error, folder)) from error


def read_record(folder: Path, uri: str, revision: str) -> Prepared | None:
    """What was prepared in a folder before, if it is this model and still whole."""
    try:
        record = msgspec.json.decode((folder / RECORD).read_bytes(), type=Prepared)
        sizes = [(folder / file.name).stat().st_size for file in record.files]
    except (OSError, msgspec.MsgspecError):
        return None
    is_same = (record.uri, record.revision) == (uri, revision)
    is_whole = sizes == [file.num_bytes for file in record.files]
    if not (is_same and is_whole):
        return None
    return msgspec.structs.replace(record, path=str(model_path(uri, folder)))


def model_path(uri: str, folder: Path) -> Path:
    """Where an engine opens what `prepare` brought into a folder: a GGUF file, or the folder."""
    return folder / PurePosixPath(uri).name if uri.endswith(".gguf") else folder


def _look_at(uri: str, path: Path) -> Prepared:
    """A model that is on this machine already."""
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    num_bytes = sum(file.stat().st_size for file in files)
    return Prepared(uri, "", "", str(path), num_bytes, (), summarise(path))


def _fetch_all(uri: str, revision: str, sha256: str, folder: Path, report: Report) -> Prepared:
    source = open_source(uri, revision)
    files = _with_checksum(uri, source, sha256)
    _check_space(folder, files)
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        report(done, source.num_bytes)

    report(0, source.num_bytes)
    fetched = tuple(_fetch_one(source, file, folder, on_bytes) for file in files)
    for file in files:  # not one by one: a part tells its version, so the next start can go on
        part_path(folder, file).rename(folder / file.name)
    path = model_path(uri, folder)
    prepared = Prepared(
        uri, revision, source.revision, str(path), source.num_bytes, fetched, summarise(path)
    )
    _write_record(folder, prepared)
    return prepared


def _with_checksum(uri: str, source: Source, sha256: str) -> tuple[SourceFile, ...]:
    if not sha256:
        return source.files
    if len(source.files) != 1:
        raise StartError(f"model.sha256 is for a single file; {uri} has {len(source.files)} files")
    return (replace(source.files[0], sha256=sha256),)


def _fetch_one(
    source: Source, file: SourceFile, folder: Path, on_bytes: Callable[[int], None]
) -> PreparedFile:
    digest = fetch(source, file, folder, on_bytes)
    return PreparedFile(file.name, file.num_bytes, digest)


def _check_space(folder: Path, files: tuple[SourceFile, ...]) -> None:
    """Raises StartError if the volume cannot hold what is still missing."""
    parts = [part_path(folder, file) for file in files]
    present = sum(part.stat().st_size for part in parts if part.exists())
    missing = sum(file.num_bytes for file in files) - present
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise StartError(
            f"{missing} bytes are missing and {folder} has {free} free; enlarge the volume, or"
            " delete models from it"
        )


def _write_record(folder: Path, prepared: Prepared) -> None:
    fresh = folder / f"{RECORD}.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(prepared)))
    fresh.rename(folder / RECORD)


@contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    """Hold the lock of a folder. It goes with the process, however that ends."""
    with path.open("a") as file:
        while not _try_lock(file.fileno()):
            report(0, 0)
            time.sleep(LOCK_POLL_SECONDS)
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _explain(error: OSError, folder: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"{folder} is full; enlarge the volume, or delete models from it"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"{folder} cannot be written ({error.strerror}); use a volume that user 65532 may write"
        )
    return f"{folder}: {error.strerror or error}; check the volume"
