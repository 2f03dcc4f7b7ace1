"""What a remote model URI names: its files, and how to read ranges of them.

hf:// is listed by the hub's API and read over HTTP at one commit; s3://, gs:// and az:// go through
obstore, http(s):// through fsspec's own client. Credentials come from the environment, by the names
that each provider's tools use. Only safetensors, GGUF and what describes them is ever listed: no
pickle, no code. Nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePosixPath
from typing import Any

from openinference_engine.errors import StartError

REMOTE_SCHEMES = ("hf", "s3", "gs", "az", "http", "https")
_STORES = ("s3", "gs", "az")
_COMPANIONS = (".json", ".jinja")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_STREAM_BYTES = 1 << 20
_READ_TIMEOUT_SECONDS = 60.0  # a connection that is silent for so long is dead


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


def is_remote(uri: str) -> bool:
    """Whether a model has to be fetched before an engine can open it."""
    return uri.partition("://")[0] in REMOTE_SCHEMES


def open_source(uri: str, revision: str = "") -> Source:
    """Lists what a remote URI names. Raises StartError, which says what to do."""
    scheme, _, rest = uri.partition("://")
    if revision and scheme != "hf":
        raise StartError(f"revision {revision!r} is for hf:// only; {uri} has no revisions")
    try:
        if scheme == "hf":
            return _open_hub(rest, revision)
        if scheme in _STORES:
            return _open_store(scheme, rest)
        return _open_http(uri)
    except ImportError as error:
        raise StartError(
            f"{scheme}:// needs {error.name}; install openinferencev2[sources]"
        ) from error
    except FileNotFoundError as error:
        raise StartError(f"{uri} does not exist; correct model.uri") from error


def choose_files(uri: str, files: list[SourceFile]) -> tuple[SourceFile, ...]:
    """What of a folder an engine reads. Raises StartError if it holds no weights for it."""
    weights = [file for file in files if file.name.endswith(".safetensors")]
    if not weights:
        raise StartError(f"{uri} holds no .safetensors file; {_hint(files)}")
    if any(file.name.startswith("model") for file in weights):
        # Mistral's repositories hold all weights a second time, under this name.
        weights = [file for file in weights if not file.name.startswith("consolidated")]
    described = [file for file in files if file.name.endswith(_COMPANIONS)]
    return tuple(sorted([*described, *weights], key=lambda file: (file.num_bytes, file.name)))


def _hint(files: list[SourceFile]) -> str:
    gguf = sorted(file.name for file in files if file.name.endswith(".gguf"))
    if gguf:
        return f"name one of its GGUF files, such as …/{gguf[0]}"
    if any(file.name.endswith(_PICKLED) for file in files):
        return "pickled weights can run code and are not read; convert them to safetensors"
    return "name a folder with safetensors files, or one .gguf file"


# hf://organisation/repository, or one file in it.


def _open_hub(rest: str, revision: str) -> Source:
    from httpx2 import HTTPError  # what the hub's own errors are, too
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.hf_api import RepoFile

    repository, name = _split_hub_path(rest)
    api = HfApi()
    try:
        commit = str(api.model_info(repository, revision=revision or None).sha)
        entries = list(api.list_repo_tree(repository, revision=commit))
    except HTTPError as error:
        raise StartError(_explain_hub(repository, revision, error)) from error
    files = [
        SourceFile(
            entry.path,
            hf_hub_url(repository, entry.path, revision=commit),
            entry.size,
            entry.blob_id,
            entry.lfs.sha256 if entry.lfs else None,
        )
        for entry in entries
        if isinstance(entry, RepoFile)
    ]
    chosen = _one(f"hf://{rest}", files, name) if name else choose_files(f"hf://{rest}", files)
    token = os.environ.get("HF_TOKEN")
    return _over_http(commit, chosen, {"Authorization": f"Bearer {token}"} if token else {})


def _split_hub_path(rest: str) -> tuple[str, str]:
    parts = rest.strip("/").split("/", 2)
    if len(parts) < 2:
        raise StartError(f"hf://{rest} must read hf://organisation/repository")
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""


def _one(uri: str, files: list[SourceFile], name: str) -> tuple[SourceFile, ...]:
    found = [file for file in files if file.name == name]
    if not found or not name.endswith(".gguf"):
        raise StartError(f"{uri} does not name a .gguf file of the repository; {_hint(files)}")
    return tuple(found)


def _explain_hub(repository: str, revision: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"hf://{repository}: access is refused ({status}); accept the model's licence and give"
            " a token with model.secretRef, as HF_TOKEN"
        )
    if status == 404:
        wanted = f" at revision {revision!r}" if revision else ""
        return (
            f"hf://{repository}{wanted} does not exist, or is private; correct model.uri, or give"
            " a token with model.secretRef, as HF_TOKEN"
        )
    told = f"the hub answers {status}" if status else "the hub does not answer"
    return f"hf://{repository}: {told} ({_first_line(error)}); the next start tries again"


# s3://bucket/path, gs://bucket/path, az://container/path.


def _open_store(scheme: str, rest: str) -> Source:
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
        raise StartError(f"{uri}: {_first_line(error)}; {_remedy(scheme)}") from error

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


# http(s)://host/path/file.gguf.


def _open_http(uri: str) -> Source:
    if not uri.endswith(".gguf"):
        raise StartError(f"{uri}: a plain web server cannot be listed; name one .gguf file")
    authorization = os.environ.get("MODEL_HTTP_AUTHORIZATION")
    headers = {"Authorization": authorization} if authorization else {}
    source = _over_http("", (), headers)
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
    return f"{uri}: the server does not answer ({_first_line(error)}); check host and network"


def _over_http(revision: str, files: tuple[SourceFile, ...], headers: dict[str, str]) -> Source:
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


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
