"""s3://bucket/path, gs://bucket/path and az://container/path, through obstore."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from openinference_engine.errors import StartError
from openinference_engine.weights.source import Source, SourceFile, choose_files, first_line


def open_store(scheme: str, rest: str) -> Source:
    """rest: of the URI behind its scheme. Raises StartError, which says what to do."""
    from obstore.exceptions import BaseError

    store = _store(scheme)
    uri = f"{scheme}://{rest}"
    try:
        if rest.endswith(".gguf"):
            files: tuple[SourceFile, ...] = (_stored(rest, store.info(rest)),)
        else:
            found = store.find(rest.rstrip("/"), maxdepth=1, detail=True)
            listed = [_stored(path, entry) for path, entry in found.items()]
            files = choose_files(uri, listed)
    except (BaseError, PermissionError) as error:
        raise StartError(f"{uri}: {first_line(error)}; {_remedy(scheme)}") from error

    def read(file: SourceFile, start: int, end: int) -> bytes:
        return bytes(store.cat_file(file.path, start=start, end=end))

    def stream(file: SourceFile) -> Iterator[bytes]:
        yield read(file, 0, file.num_bytes)

    return Source(files[0].version if len(files) == 1 else "", files, read, stream)


def _store(scheme: str) -> Any:
    from obstore import fsspec

    class_: Any = fsspec.FsspecStore  # its overloads want to know the scheme when it is typed
    is_plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return class_(
        scheme,
        client_options={"allow_http": True} if is_plain else {},
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
    )


def _stored(path: str, entry: dict[str, Any]) -> SourceFile:
    version = str(entry.get("version") or entry.get("e_tag") or "").strip('"')
    return SourceFile(PurePosixPath(path).name, path, entry["size"], version)


def _remedy(scheme: str) -> str:
    given = {
        "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a server of your own,"
        " AWS_ENDPOINT_URL",
        "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
        "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    }
    return (
        f"check the name, and give {given[scheme]} with model.secretRef, or a ServiceAccount that"
        " may read it with podTemplate.serviceAccountName"
    )
