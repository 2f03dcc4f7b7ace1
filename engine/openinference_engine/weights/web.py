"""http(s)://host/path/file.gguf, through fsspec's own client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from openinference_engine.errors import StartError
from openinference_engine.weights.source import RangesUnsupported, Source, SourceFile, first_line

_STREAM_BYTES = 1 << 20


_READ_TIMEOUT_SECONDS = 60.0  # a connection that is silent for so long is dead


def open_http(uri: str) -> Source:
    """Raises StartError, which says what to do."""
    if not uri.endswith(".gguf"):
        raise StartError(f"{uri}: a plain web server cannot be listed; name one .gguf file")
    authorization = os.environ.get("MODEL_HTTP_AUTHORIZATION")
    headers = {"Authorization": authorization} if authorization else {}
    source = over_http("", (), headers)
    info = _web_info(uri, headers)
    version = str(info.get("ETag") or info.get("Last-Modified") or "").strip('"')
    file = SourceFile(PurePosixPath(uri).name, uri, info["size"], version)
    return Source(version, (file,), source.read, source.stream)


def _web_info(uri: str, headers: dict[str, str]) -> dict[str, Any]:
    try:
        info: dict[str, Any] = _web(headers).info(uri)
    except FileNotFoundError as error:  # what fsspec makes of every failure
        raise StartError(_explain_web(uri, error.__cause__ or error)) from error
    if info.get("size") is None:
        raise StartError(f"{uri}: the server does not tell the size; it must send Content-Length")
    return info


def _explain_web(uri: str, error: BaseException) -> str:
    status = getattr(error, "status", None)
    if status in (404, 410) or isinstance(error, FileNotFoundError):
        return f"{uri} does not exist; correct model.uri"
    if status in (401, 403):
        return f"{uri}: access is refused ({status}); give MODEL_HTTP_AUTHORIZATION with secretRef"
    if status is not None:
        return f"{uri}: the server answers {status}; the next start tries again"
    return f"{uri}: the server does not answer ({first_line(error)}); check host and network"


def over_http(revision: str, files: tuple[SourceFile, ...], headers: dict[str, str]) -> Source:
    """Files whose paths are URLs."""
    web = _web(headers)

    def read(file: SourceFile, start: int, end: int) -> bytes:
        size = end - start
        with web.open(
            file.path, "rb", block_size=size, size=file.num_bytes, cache_type="none"
        ) as reader:
            reader.seek(start)
            try:
                return bytes(reader.read(size))
            except ValueError as error:  # fsspec's word for a server that ignores Range
                raise RangesUnsupported(file.path) from error

    def stream(file: SourceFile) -> Iterator[bytes]:
        with web.open(file.path, "rb", block_size=0, size=file.num_bytes) as reader:
            while chunk := reader.read(_STREAM_BYTES):
                yield bytes(chunk)

    return Source(revision, files, read, stream)


def _web(headers: dict[str, str]) -> Any:
    from aiohttp import ClientTimeout
    from fsspec.implementations.http import HTTPFileSystem

    timeout = ClientTimeout(total=None, sock_connect=30, sock_read=_READ_TIMEOUT_SECONDS)
    return HTTPFileSystem(client_kwargs={"headers": headers, "timeout": timeout})
