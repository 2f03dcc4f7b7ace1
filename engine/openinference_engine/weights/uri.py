"""Resolves a model URI to a local path.

The engine itself reads what is already on this machine. Remote schemes are fetched beforehand, so
that a pod restart never depends on a registry.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from openinference_engine.errors import StartError


def resolve(uri: str) -> Path:
    """The file or directory that `uri` names. Raises StartError if there is none."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _RESOLVERS:
        supported = ", ".join(f"{name}://" for name in _RESOLVERS)
        raise StartError(f"model URI {uri!r} has no supported scheme; use one of {supported}")
    path = _RESOLVERS[scheme](rest)
    if not path.exists():
        raise StartError(f"model URI {uri!r} names {path}, which does not exist")
    return path


def _package_file(rest: str) -> Path:
    """`module/file`: a file inside an installed package, which is found but never imported."""
    module, _, file_name = rest.partition("/")
    if not module.isidentifier() or not file_name:
        raise StartError(f"package://{rest} must read package://module/file")
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise StartError(
            f"package://{rest}: no package {module!r} is installed here; "
            f"try pip install --no-deps {module.replace('_', '-')}"
        )
    folder = Path(spec.submodule_search_locations[0]).resolve()
    path = (folder / file_name).resolve()
    if not path.is_relative_to(folder):
        raise StartError(f"package://{rest} leaves the package; name a file inside it")
    return path


def _local_path(rest: str) -> Path:
    if not rest.startswith("/"):
        raise StartError(f"file://{rest} must be absolute, as in file:///models/{rest}")
    return Path(rest)


_RESOLVERS = {"package": _package_file, "file": _local_path}
