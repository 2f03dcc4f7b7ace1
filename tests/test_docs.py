"""The documentation builds without a warning, and what it tells users to type exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from openinferencev2.cli import app
from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *(path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"),
]
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


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.name} {number}")
        for page in PAGES
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S))
    ],
)
def test_every_yaml_block_parses(block):
    assert yaml.safe_load(block)
