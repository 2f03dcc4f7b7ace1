"""`openinference model …`: fetch a model to where an engine opens it, and say what it is.

On a terminal progress is a bar; elsewhere it is a JSON line every few seconds, of which the
operator reads the last one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from openinference_engine.weights.prepare import Prepared, Report

app = typer.Typer(no_args_is_help=True, help="Fetch models and say what they are.")

LINE_SECONDS = 3.0
RESULT_BYTES = 4096  # Kubernetes keeps as much of a termination message


@app.command()
def prepare(
    uri: Annotated[str, typer.Argument(help="hf://, s3://, gs://, az://, http(s)://, file://, …")],
    directory: Annotated[
        Path | None, typer.Option(help="Folder for this model. Default: below ~/.cache.")
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit of an hf:// model.")] = "",
    sha256: Annotated[str, typer.Option(help="Checksum that a single file must have.")] = "",
    result_file: Annotated[
        Path | None, typer.Option(help="Also write the result, or the error, to this file.")
    ] = None,
) -> None:
    """Fetch a model once, check it, and print where it is and what it is, as JSON."""
    from openinference_engine.errors import EXIT_CANNOT_START, StartError
    from openinference_engine.log import configure_logging
    from openinference_engine.weights.prepare import prepare as prepare_model

    configure_logging()
    folder = directory or _default_folder(uri, revision)
    try:
        with _reporting() as report:
            prepared = prepare_model(uri, folder, report, revision, sha256)
    except StartError as error:
        _keep(result_file, str(error))
        print(f"openinference: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_CANNOT_START) from error
    result = describe(prepared)
    _keep(result_file, result)
    print(result)


def describe(prepared: Prepared) -> str:
    """The result in one line of JSON that fits into a termination message."""
    import msgspec

    result = {
        "revision": prepared.resolved_revision,
        "bytes": prepared.num_bytes,
        "path": prepared.path,
        "summary": prepared.summary,
    }
    return msgspec.json.encode(result).decode()


def _default_folder(uri: str, revision: str) -> Path:
    digest = hashlib.sha256(f"{uri}\n{revision}".encode()).hexdigest()[:16]
    return Path.home() / ".cache" / "openinference" / "models" / digest


def _keep(path: Path | None, text: str) -> None:
    if path is not None:
        path.write_bytes(text.encode()[:RESULT_BYTES])


@contextmanager
def _reporting() -> Iterator[Report]:
    """How progress is told: a bar to people, lines to the operator."""
    if sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield Lines()


class Lines:
    """Progress as JSON lines, at once, every few seconds, and at the end."""

    def __init__(self) -> None:
        self._last = -LINE_SECONDS

    def __call__(self, downloaded: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last < LINE_SECONDS and (downloaded != total or not total):
            return
        self._last = now
        print(json.dumps({"downloadedBytes": downloaded, "totalBytes": total}), flush=True)


@contextmanager
def _bar() -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("model", total=None)
        yield lambda downloaded, total: bar.update(task, completed=downloaded, total=total or None)
