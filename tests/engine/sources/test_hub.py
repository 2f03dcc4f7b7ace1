"""Models from a hub of our making.

It is a stand-in at the border: it answers the three calls of the hub's API that are used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from openinference_engine.errors import StartError
from openinference_engine.weights import prepare
from openinference_engine.weights.summary import summarise

from tests.engine.sources.preparing import fetch
from tests.engine.sources.web import Web


@pytest.fixture
def hub(web: Web, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """One repository whose branch main is at commit a, and whose weights are kept as LFS files."""
    # What the library makes of HF_ENDPOINT when it is first imported.
    template = f"{web.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", web.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    add_commit(web, tiny_llama, "a" * 40)
    return web


def add_commit(web: Web, folder: Path, commit: str) -> None:
    info = json.dumps({"id": "team/tiny", "sha": commit}).encode()
    for revision in ("main", "v1"):
        web.files[f"/api/models/team/tiny/revision/{revision}"] = info
    web.files["/api/models/team/tiny"] = info
    entries = []
    for path in [*folder.iterdir()]:
        content = path.read_bytes()
        entry = {"type": "file", "path": path.name, "size": len(content), "oid": "0" * 40}
        if path.suffix == ".safetensors":
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        entries.append(entry)
        web.files[f"/team/tiny/resolve/{commit}/{path.name}"] = content
    web.files[f"/api/models/team/tiny/tree/{commit}"] = json.dumps(entries).encode()


def test_a_repository_is_fetched_at_the_commit_that_its_branch_is_at(
    hub: Web, tiny_llama: Path, tmp_path: Path
) -> None:
    prepared = fetch("hf://team/tiny", tmp_path, revision="v1")
    assert prepared.resolved_revision == "a" * 40
    assert prepared.summary == summarise(tiny_llama)


def test_a_branch_that_moves_on_leaves_the_prepared_model_alone(
    hub: Web, tiny_llama: Path, tmp_path: Path
) -> None:
    fetch("hf://team/tiny", tmp_path)
    add_commit(hub, tiny_llama, "b" * 40)
    assert fetch("hf://team/tiny", tmp_path).resolved_revision == "a" * 40


def test_weights_that_differ_from_the_hubs_checksum_are_refused(hub: Web, tmp_path: Path) -> None:
    path = f"/team/tiny/resolve/{'a' * 40}/model.safetensors"
    hub.files[path] = hub.files[path][:-1] + b"!"
    with pytest.raises(StartError, match=r"SHA-256 .* it was damaged on the way"):
        fetch("hf://team/tiny", tmp_path)


def test_files_that_were_finished_before_a_cut_are_there_for_the_next_start(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/team/tiny/resolve/{'a' * 40}/model.safetensors"
    weights = hub.files.pop(path)  # the largest file, which comes last
    with pytest.raises(StartError, match="what was fetched stays"):
        fetch("hf://team/tiny", tmp_path)
    hub.files[path] = weights
    hub.answers.clear()
    usage = shutil.disk_usage(tmp_path)._replace(free=len(weights))
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: usage)

    fetch("hf://team/tiny", tmp_path)

    assert {answer for answer in hub.answers if "/resolve/" in answer} == {f"GET {path}"}


def test_a_private_repository_asks_for_a_token(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.authorization = "Bearer hf_sesame"
    with pytest.raises(StartError, match=r"give a token with model\.secretRef"):
        fetch("hf://team/tiny", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_sesame")
    assert fetch("hf://team/tiny", tmp_path).resolved_revision == "a" * 40
