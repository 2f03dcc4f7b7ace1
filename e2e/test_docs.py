"""What the documentation tells users to type and to apply, on a real cluster."""

import json
import os
import sys
from itertools import groupby
from pathlib import Path

import pytest
import yaml

from docs import blocks
from e2e.asks import Json
from e2e.cluster.kubectl import environment
from e2e.inference_service import WEIGHTS
from e2e.kube import Kube, KubeError

MARKED = [each for each in blocks.blocks("console", "python") if each.where == "cluster"]
BY_PAGE = {str(page): [*found] for page, found in groupby(MARKED, lambda each: each.page.name)}


@pytest.fixture
def variables(kube: Kube, tmp_path: Path) -> dict[str, str]:
    """A user whose kubeconfig names the test's namespace."""
    there = os.environ | environment()
    config = yaml.safe_load(Path(there["KUBECONFIG"]).read_text())
    for each in config["contexts"]:
        each["context"]["namespace"] = kube.namespace
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    return there | {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "PATH": f"{Path(sys.executable).parent}:{there['PATH']}",
        "COLUMNS": "200",
    }


@pytest.mark.parametrize("page", BY_PAGE)
async def test_a_pages_blocks_run_one_after_the_other(
    kube: Kube, variables: dict[str, str], page: str
) -> None:
    for block in BY_PAGE[page]:
        blocks.run(block, variables, {})
    await kube.run("delete", "infsvc", "--all", "--wait=false")


def services() -> list[tuple[str, Json]]:
    """Each InferenceService of a YAML block, whole; a part of one is completed."""
    found = []
    for block in blocks.blocks("yaml"):
        for document in yaml.safe_load_all(block.text):
            if document.get("kind", "InferenceService") == "InferenceService":
                spec = document.get("spec") or {
                    name: document[name] for name in ("model", "resources") if name in document
                }
                if spec:
                    found.append((block.name, {"spec": {"model": {"uri": WEIGHTS}} | spec}))
    return found


@pytest.mark.parametrize(("name", "part"), services())
async def test_every_service_that_a_page_shows_is_accepted(
    kube: Kube, name: str, part: Json
) -> None:
    whole = {
        "apiVersion": "openinference.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": "shown"},
        **part,
    }
    try:
        await kube.run(
            *("create", "--dry-run=server", "--validate=strict", "--filename=-"),
            stdin=json.dumps(whole),
        )
    except KubeError as error:
        raise AssertionError(f"{name}: {error}") from error
