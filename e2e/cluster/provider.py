"""What a local cluster must be able to do, whoever provides it, and which provider to take.

Two exist: `kind` where a Docker daemon answers, `embedded` for root on Linux. The choice is a
pure function of what preflight saw of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class ProviderName(StrEnum):
    """What `--provider` accepts."""

    AUTO = "auto"
    EMBEDDED = "embedded"
    KIND = "kind"


@dataclass(frozen=True, slots=True)
class Part:
    """A daemon or container of the cluster, for `status`."""

    name: str
    condition: str
    is_healthy: bool


class Provider(Protocol):
    """A Kubernetes on this machine."""

    @property
    def name(self) -> str:
        """The name by which the cluster's provider is remembered."""

    def up(self, nodes: int) -> None:
        """Start the cluster, or mend it, with at least that many nodes; quick if all is well."""

    def load(self, tags: Sequence[str]) -> None:
        """Make the current code available to pods as `openinference/<part>:<tag>`."""

    def kubeconfig(self) -> Path:
        """The file that lets a client administer the cluster."""

    def add_node(self) -> str:
        """Add one node and return its name."""

    def parts(self) -> list[Part]:
        """What the cluster is made of, and whether it lives."""

    def down(self) -> None:
        """Remove the cluster and everything it made on this machine."""
