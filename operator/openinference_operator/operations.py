"""What a plan may do to the cluster, as data.

`Create` is for groups, which are written once; `Apply` is server-side apply of an object that is
kept as rendered; `Annotate` records progress on an object; `Delete` carries the identity
and version that the plan saw, so that nothing newer is deleted by an old thought.

A plan is performed in its order, but for objects in a row that are all created or all applied:
these know nothing of one another and are written at the same time, a few at once.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeAlias

from openinference_operator.manifests.common import Manifest

ABREAST = 8  # a quota refuses no more than these; the lease's renewal waits for no thousand groups


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


def strides(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """A plan in its order, cut into what is done at the same time."""
    for kind, row in groupby(operations, type):
        width = ABREAST if kind in (Create, Apply) else 1
        while stride := list(islice(row, width)):
            yield stride
