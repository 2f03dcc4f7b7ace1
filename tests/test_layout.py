"""The shape of the repository: rules that no single module could notice broken."""

import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("operator", "engine")
FRAGMENT = re.compile(r"[a-z0-9-]+\.(added|changed|fixed|removed|security)\.md")


def tracked_files() -> list[Path]:
    """What git tracks, less what is deleted and not yet committed."""
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (REPOSITORY / name for name in listing.split("\0") if name)
    return [path for path in paths if path.is_file()]


def declared_packages() -> set[Path]:
    """The packages that the wheel holds, as pyproject.toml lists them."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    return {REPOSITORY / name for name in project["tool"]["scikit-build"]["wheel"]["packages"]}


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_source_root_is_no_package(root):
    """A package named `operator` would shadow the standard library of every Python started here."""
    assert not (REPOSITORY / root / "__init__.py").exists()


@pytest.mark.parametrize("folder", ["tests", "e2e"])
def test_tests_are_no_packages(folder):
    """tests/operator/__init__.py would replace the standard library's operator while tests run."""
    assert list((REPOSITORY / folder).rglob("__init__.py")) == []


@pytest.mark.parametrize("folder", [".", *SOURCE_ROOTS, "tests"])
def test_operator_is_the_standard_library(folder):
    found = subprocess.run(
        [sys.executable, "-c", "import operator; print(operator.__file__)"],
        cwd=REPOSITORY / folder,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert Path(found.strip()).parent == Path(sysconfig.get_path("stdlib"))


def test_every_package_is_in_the_wheel():
    found = {
        path.parent for root in SOURCE_ROOTS for path in REPOSITORY.glob(f"{root}/*/__init__.py")
    }

    assert found == declared_packages()


def test_every_package_is_typed():
    assert [path for path in declared_packages() if not (path / "py.typed").is_file()] == []


def test_no_file_names_a_path_of_one_machine():
    """The path of this checkout or a person's home works nowhere else."""
    machine_path = re.compile(
        rf"(?<![\w.}}-])(?:{re.escape(str(REPOSITORY))}|/(?:home|Users)/[a-z]\w*|/root)/".encode()
    )

    assert [path for path in tracked_files() if machine_path.search(path.read_bytes())] == []


def test_changelog_fragments_say_their_kind():
    fragments = REPOSITORY.glob("changelog.d/*.md")

    assert [path.name for path in fragments if not FRAGMENT.fullmatch(path.name)] == []
