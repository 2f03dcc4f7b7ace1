"""What a plan may do to the cluster, as data.

`Create` is for groups, which are written once; `Apply` is server-side apply of an object that is
kept as rendered; `Annotate` records progress on an object; `Delete` carries the identity
and version that the plan saw, so that nothing newer is deleted by an old thought.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from openinference_operator.manifests.common import Manifest


@dataclass(frozen=True, slots=True)
class Reference:
    """One object in one version; in any, where `resource_version` is empty."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object, unless it exists."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring an object to what is rendered; `exists` tells whether ours was seen."""

    manifest: Manifest
    exists: bool


@dataclass(frozen=True, slots=True)
class Annotate:
    """Set annotations of an object, or remove those that are None; the others stay."""

    reference: Reference
    annotations: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Resize:
    """Let a group have all its pods or none, with annotations in the same write."""

    reference: Reference
    pods: int
    annotations: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object, and let what it owns go before it."""

    reference: Reference


Operation: TypeAlias = Create | Apply | Annotate | Resize | Delete
