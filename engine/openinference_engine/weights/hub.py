"""hf://organisation/repository, or a file in it: listed by the hub, read by HTTP at one commit."""

from __future__ import annotations

import os

from openinference_engine.errors import StartError
from openinference_engine.weights.source import (
    Source,
    SourceFile,
    choose_files,
    first_line,
    one_file,
)
from openinference_engine.weights.web import over_http


def open_hub(rest: str, revision: str) -> Source:
    """rest: of the URI behind its scheme. Raises StartError, which says what to do."""
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
    chosen = one_file(f"hf://{rest}", files, name) if name else choose_files(f"hf://{rest}", files)
    token = os.environ.get("HF_TOKEN")
    return over_http(commit, chosen, {"Authorization": f"Bearer {token}"} if token else {})


def _split_hub_path(rest: str) -> tuple[str, str]:
    parts = rest.strip("/").split("/", 2)
    if len(parts) < 2:
        raise StartError(f"hf://{rest} must read hf://organisation/repository")
    return "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""


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
    return f"hf://{repository}: {told} ({first_line(error)}); the next start tries again"
