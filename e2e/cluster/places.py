"""Where the cluster keeps things.

Two roots: `STATE` holds what dies with the cluster and needs root (sockets, etcd, containers),
the cache folder holds what outlives it (compiled programs) and what a user wants at a stable
path (kubeconfig, kubectl, helm).
"""

import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent

STATE = Path("/var/lib/openinference-cluster")
CERTIFICATES = STATE / "certificates"
CLUSTER_RECORD = STATE / "cluster.json"
IMAGES = STATE / "images"
LOGS = STATE / "logs"
PROCESSES = STATE / "processes"


def cache() -> Path:
    """The user's cache folder for this project."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "openinference"


def kubeconfig() -> Path:
    return cache() / "cluster" / "kubeconfig"


def provider_record() -> Path:
    """Names the provider of the running cluster, so that `down` need not guess."""
    return cache() / "cluster" / "provider"


def lock() -> Path:
    """Held by whichever command changes the cluster."""
    return cache() / "cluster" / "lock"


def tools() -> Path:
    """A folder for PATH with kubectl and helm."""
    return cache() / "cluster" / "bin"


def interpreter() -> Path:
    """The virtual environment that runs this program; pods run from the same one."""
    return Path(sys.prefix)
