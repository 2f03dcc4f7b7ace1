"""The documentation builds without a warning, and what it tells users to type works."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from openinferencev2.checks import OLDEST_KUBERNETES
from openinferencev2.cli import app
from typer.main import get_command

from docs import blocks

ROOT = Path(__file__).resolve().parents[1]
PAGES = blocks.pages()
COMMANDS = get_command(app).commands


def test_the_site_builds_strictly_and_every_link_inside_resolves(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/reference/api/index.html").exists()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_every_link_of_a_page_outside_the_site_resolves(name):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (ROOT / name).read_text()):
        if "://" not in target:
            assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(page):
    for name, rest in re.findall(
        r"(?:^\$ |`)openinference ([a-z]+)([^`\n]*)", page.read_text(), re.M
    ):
        assert name in COMMANDS, f"openinference {name}"
        if name == "serve" or hasattr(COMMANDS[name], "commands"):
            continue
        known = {opt for parameter in COMMANDS[name].params for opt in parameter.opts}
        asked = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest.partition("|")[0])) - {"--help"}
        assert asked <= known, f"openinference {name}"


@pytest.mark.parametrize("block", blocks.blocks("yaml"), ids=lambda block: block.name)
def test_every_yaml_block_parses(block):
    assert all(yaml.safe_load_all(block.text))


@pytest.mark.parametrize(
    "block",
    [each for each in blocks.blocks("console", "python", "bash") if each.where == "here"],
    ids=lambda block: block.name,
)
def test_a_block_that_is_marked_runnable_runs(block, engine_url, tmp_path):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "COLUMNS": "200",
    }
    port = engine_url.rpartition(":")[2]
    blocks.run(block, environment, {"localhost:8000": f"127.0.0.1:{port}"})


def test_the_oldest_kubernetes_is_the_same_wherever_it_is_named():
    chart = yaml.safe_load((ROOT / "charts/openinference/Chart.yaml").read_text())
    oldest = ".".join(map(str, OLDEST_KUBERNETES))
    assert chart["kubeVersion"].startswith(f">={oldest}.")
    assert f"Kubernetes {oldest} or newer" in (ROOT / "docs/quick-start.md").read_text()
