"""The compiled programs: built once from `components/`, then found in the user's cache.

A build is kept in a folder named by the hash of its sources, its flags and the Go version. It is
made beside that folder and renamed, so the folder exists whole or not at all, and a changed
source never overwrites the program that a running cluster executes.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import rmtree

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from e2e.cluster import places, toolchain
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import console
from e2e.cluster.shell import run

_SOURCES = places.SOURCES / "components"
_HELM = "helm.sh/helm/v3/cmd/helm"
_CALLED_BY_NAME = ("kubectl", "coredns")  # links to the one program that holds all components


def ensure_built() -> Path:
    """Return the folder with cluster, kubectl, coredns, helm and pause; build it if need be."""
    go = toolchain.ensure_go()
    folder = places.cache() / "programs" / _fingerprint(go)
    if not folder.exists():
        _build(go, folder)
    _link_tools(folder)
    return folder


def are_built() -> bool:
    """Say whether any build is cached, so that little disk and time is needed."""
    folder = places.cache() / "programs"
    # A name with a suffix is the draft of a build that was broken off.
    return folder.is_dir() and any(not each.suffix for each in folder.iterdir())


def _fingerprint(go: Path) -> str:
    digest = hashlib.sha256(run(str(go), "version").encode())
    for path in sorted(_SOURCES.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(_SOURCES).as_posix().encode())
            digest.update(path.read_bytes())
    for command in _build_commands(go, Path("anywhere")):
        digest.update(" ".join(command[1:]).encode())
    return digest.hexdigest()[:16]


def _build(go: Path, folder: Path) -> None:
    draft = folder.with_suffix(f".{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        for command in _build_commands(go, draft):
            _compile(go, command)
        for name in _CALLED_BY_NAME:
            (draft / name).symlink_to("cluster")
        draft.rename(folder)
    finally:
        rmtree(draft, ignore_errors=True)


def _build_commands(go: Path, target: Path) -> Iterator[Sequence[str]]:
    modules = (_SOURCES / "go.mod").read_text()
    kubernetes = _version_of("k8s.io/kubernetes", modules)
    helm = _version_of("helm.sh/helm/v3", modules)
    for packages, variable in (
        ("./...", f"k8s.io/component-base/version.gitVersion={kubernetes}"),
        (_HELM, f"helm.sh/helm/v3/internal/version.version={helm}"),
    ):
        flags = ("-v", "-trimpath", "-buildvcs=false", f"-ldflags=-s -w -X {variable}")
        yield (str(go), "build", *flags, "-o", f"{target}/", packages)


def _version_of(module: str, modules: str) -> str:
    match = re.search(rf"{re.escape(module)} (v\S+)", modules)
    if match is None:
        raise ClusterError(f"components/go.mod does not require {module}.")
    return match[1]


def _compile(go: Path, command: Sequence[str]) -> None:
    """Run `go build -v`, which prints each package when it is compiled, as a progress bar."""
    environment = {**os.environ, **toolchain.ENVIRONMENT}
    title = "Compiling Helm" if _HELM in command else "Compiling Kubernetes (once; minutes)"
    columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("fetching modules", total=_package_count(go, command[-1]))
        # Polite to whatever else the machine does; costs nothing on an idle one.
        process = subprocess.Popen(
            ["nice", "-n", "10", *command],
            cwd=_SOURCES,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            bar.update(task, advance=1, description=line.strip()[-40:])
        bar.update(task, completed=bar.tasks[0].total, description="linked")
    if process.wait() != 0:
        raise ClusterError(f"Compiling failed: {''.join(lines[-10:])}")


def _package_count(go: Path, package: str) -> int:
    command = (str(go), "-C", str(_SOURCES), "list", "-deps", package)
    return len(run(*command, environment=toolchain.ENVIRONMENT, timeout_seconds=900).split())


def _link_tools(folder: Path) -> None:
    """Put kubectl and helm at a path that stays the same when the build changes."""
    tools = places.tools()
    tools.mkdir(parents=True, exist_ok=True)
    for name in ("kubectl", "helm"):
        draft = tools / f".{name}.{os.getpid()}"
        draft.symlink_to(folder / name)
        draft.replace(tools / name)
