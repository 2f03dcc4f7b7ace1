"""The project's container images: empty trees with a name.

All software comes from read-only mounts (see `runtime`), so an image is a handful of folders,
links and two account files: a few KiB, written here as the archive that `docker save` would
write. Extra tags give the same code under another reference, with another digest, which is
what an upgrade needs to see.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from e2e.cluster import places, runtime
from e2e.cluster.shell import run

PARTS = ("engine", "operator")  # what `load` offers under further tags
SERVICES = ("openinference/coredns:dev", "openinference/prometheus:dev")
USER_ID = 65532  # the account that "distroless" images made customary for non-root

_ACCOUNTS = f"""\
root:x:0:0:root:/root:/usr/sbin/nologin
nonroot:x:{USER_ID}:{USER_ID}:nonroot:/tmp:/usr/sbin/nologin
"""
_GROUPS = f"root:x:0:\nnonroot:x:{USER_ID}:\n"


def references(tags: Sequence[str]) -> list[str]:
    """The names under which pods can ask for the current code."""
    return [f"openinference/{part}:{tag}" for part in PARTS for tag in tags]


def ensure_loaded(node: int, programs: Path, fresh: bool) -> None:
    """Import what every node starts with: all of it, or only what is missing.

    `fresh` says that the runtime was just started, perhaps for an interpreter elsewhere, whose
    path is in every image.
    """
    present = () if fresh else runtime.image_names(node)
    if runtime.SANDBOX_IMAGE not in present:
        _load_pause(node, programs)
    wanted = [*SERVICES, *references(["dev"])]
    load(node, [name for name in wanted if name not in present])


def load(node: int, names: Sequence[str]) -> None:
    """Import the empty tree under each of the names into a node."""
    layer = _tar(_tree())
    for reference in names:
        _import(node, reference, layer, settings(reference))


def archive(reference: str, layer: bytes, settings: dict[str, object]) -> bytes:
    """An image of one layer in the format of `docker save`."""
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [reference], "Layers": ["layer.tar"]}]
    return _tar(
        [
            _file("manifest.json", json.dumps(manifest).encode()),
            _file("config.json", json.dumps(config).encode()),
            _file("layer.tar", layer),
        ]
    )


def settings(reference: str) -> dict[str, object]:
    path = f"{places.interpreter()}/bin:/usr/local/bin:/usr/bin:/bin"
    return {
        "User": str(USER_ID),
        "Env": [f"PATH={path}", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1"],
        # Makes the digests of two tags differ, as those of two builds would.
        "Labels": {"openinference.dev/reference": reference},
    }


def _load_pause(node: int, programs: Path) -> None:
    layer = _tar([_file("pause", (programs / "pause").read_bytes(), mode=0o755)])
    _import(node, runtime.SANDBOX_IMAGE, layer, {"Entrypoint": ["/pause"]})


_Entry = tuple[tarfile.TarInfo, bytes]


def _tree() -> Iterator[_Entry]:
    for folder in ("usr", "etc", "proc", "sys", "dev", "root", "opt"):
        yield _folder(folder, mode=0o755)
    yield _folder("tmp", mode=0o1777)
    for name in ("bin", "sbin", "lib", "lib64"):
        yield _link(name, f"usr/{name}")
    yield _file("etc/passwd", _ACCOUNTS.encode())
    yield _file("etc/group", _GROUPS.encode())
    yield _file("etc/nsswitch.conf", b"hosts: files dns\n")


def _folder(name: str, mode: int) -> _Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    return entry, b""


def _link(name: str, target: str) -> _Entry:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    return entry, b""


def _file(name: str, content: bytes, mode: int = 0o644) -> _Entry:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    return entry, content


def _tar(entries: Iterable[_Entry]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _architecture() -> str:
    return run("dpkg", "--print-architecture").strip()


def _import(node: int, reference: str, layer: bytes, settings: dict[str, object]) -> None:
    name = reference.replace("/", "-").replace(":", "-")
    places.IMAGES.mkdir(parents=True, exist_ok=True)
    path = places.IMAGES / f"{name}.tar"
    path.write_bytes(archive(reference, layer, settings))
    run(*runtime.client(node, "images", "import", str(path)))
