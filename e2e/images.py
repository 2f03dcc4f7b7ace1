"""The container images, built from their Dockerfiles without Docker, and tried: `make images`.

buildah runs the Dockerfiles as root, on a Debian with Python that debootstrap makes; what they need
comes from Debian's archive and a Python index. Each image is then asked something under the account
that its pods have, and its answer is printed beside its size. On GitHub the release workflow builds
the same Dockerfiles on python:slim.
"""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from e2e.cluster.errors import ClusterError
from e2e.cluster.places import PROJECT
from e2e.cluster.progress import console, step
from e2e.cluster.shell import run, succeeds
from e2e.inference_service import WEIGHTS

BASE = "localhost/openinference/base:bookworm"
TOOLS = ("buildah", "debootstrap")

# Without a kernel that may make namespaces (this runs in containers, too), a chroot does.
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}
_LONGEST_BUILD_SECONDS = 3600
_ENGINE_ANSWERS = f"""\
from openinferencev2 import LLM
with LLM("{WEIGHTS}") as llm:
    question = {{"role": "user", "content": "Who was Ada Lovelace?"}}
    print(llm.chat([question], temperature=0, max_tokens=16).text.splitlines()[0])
"""


@dataclass(frozen=True, slots=True)
class Part:
    """An image: its Dockerfile's folder and arguments, and what it is asked when it is built."""

    name: str
    folder: str
    question: tuple[str, ...]
    arguments: Mapping[str, str] = field(default_factory=dict)

    def reference(self, tag: str) -> str:
        return f"localhost/openinference/{self.name}:{tag}"


_ASK_ENGINE = ("python3", "-c", _ENGINE_ANSWERS)
PARTS = {
    part.name: part
    for part in (
        Part("operator", "operator", ("openinference", "--version")),
        Part("engine", "engine", _ASK_ENGINE),
        Part("engine-cuda", "engine", _ASK_ENGINE, {"NATIVE": "cuda", "TORCH_BACKEND": ""}),
    )
}


def main(
    parts: Annotated[list[str] | None, typer.Argument(help=", ".join(PARTS))] = None,
    tag: Annotated[str, typer.Option(help="Of the images.")] = "built",
    certificates: Annotated[
        Path | None, typer.Option(help="To trust in the build, such as /etc/ssl/certs.")
    ] = None,
    torch_backend: Annotated[
        str, typer.Option(help="Which torch; empty: that of the Python index, with CUDA.")
    ] = "cpu",
) -> None:
    """Build images and ask each one something."""
    options = {
        "BASE": BASE,
        "COMPILER": "g++ python3-dev",
        "TORCH_BACKEND": torch_backend,
        "VERSION": tag,
    }
    try:
        chosen = [_part(name) for name in parts or ("operator", "engine")]
        _require_tools()
        _ensure_base()
        for part in chosen:
            _build(part, part.reference(tag), options | dict(part.arguments), certificates)
            console.print(_description(part, part.reference(tag)))
    except ClusterError as error:
        console.print(f"[red]✗[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


def save(reference: str, path: Path) -> None:
    """Write an image as the archive that `docker save` would write."""
    path.unlink(missing_ok=True)
    name = reference.removeprefix("localhost/")
    _buildah("push", reference, f"docker-archive:{path}:docker.io/{name}")


def _part(name: str) -> Part:
    if name not in PARTS:
        raise ClusterError(f"There is no image {name}; choose among {', '.join(PARTS)}.")
    return PARTS[name]


def _require_tools() -> None:
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise ClusterError(f"Not installed; on Debian: apt-get install {' '.join(missing)}")


def _ensure_base() -> None:
    """Debian with the Python of the Dockerfiles, made once."""
    if succeeds("buildah", "inspect", "--type=image", BASE):
        return
    with step("Debian with Python"):
        container = _buildah("from", "scratch").strip()
        root = Path(_buildah("mount", container).strip())
        packages = "--include=ca-certificates,python3-venv"
        run(
            "debootstrap", "--variant=minbase", packages, "bookworm", str(root), timeout_seconds=900
        )
        for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / folder)
            (root / folder / "partial").mkdir(parents=True)
        _buildah("config", "--cmd=/bin/sh", container)
        _buildah("commit", "--rm", container, BASE)


def _build(
    part: Part, reference: str, arguments: Mapping[str, str], certificates: Path | None
) -> None:
    trusted = [f"--volume={certificates}:/etc/ssl/certs:ro"] if certificates else []
    with step(reference):
        _buildah(
            *("bud", "--quiet", f"--tag={reference}", *trusted),
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            f"--file={PROJECT / part.folder / 'Dockerfile'}",
            str(PROJECT),
        )


def _description(part: Part, reference: str) -> str:
    """One line: how large it is, whose account it has, and its answer."""
    size = _buildah("images", "--format={{.Size}}", reference).strip()
    user = _buildah("inspect", "--type=image", "--format={{.OCIv1.Config.User}}", reference).strip()
    container = _buildah("from", reference).strip()
    try:
        said = _buildah("run", f"--user={user}", container, "--", *part.question).strip()
    finally:
        _buildah("rm", container)
    return f"{reference}  {size}  user {user}  says: {said}"


def _buildah(*words: str) -> str:
    return run("buildah", *words, environment=_ENVIRONMENT, timeout_seconds=_LONGEST_BUILD_SECONDS)


if __name__ == "__main__":
    typer.run(main)
