"""The commands that a user would type, in one place: tests run them, the demo also shows them."""

import os
import subprocess
import sys

from e2e.cluster.kubectl import environment
from e2e.cluster.places import PROJECT

SYSTEM_NAMESPACE = "openinference-system"
PROMETHEUS = "http://prometheus.monitoring:9090"

CHART = PROJECT / "charts" / "openinference"
CRD = "inferenceservices.openinference.dev"

CLUSTER_UP = (sys.executable, "-m", "e2e.cluster", "up")
CLUSTER_LOAD = (sys.executable, "-m", "e2e.cluster", "load")
# An installation that was killed leaves its release locked for ever; nothing else is deleted.
HELM_UNLOCK = (
    *("kubectl", "delete", "secret", "--namespace", SYSTEM_NAMESPACE, "--selector"),
    "owner=helm,name=openinference,status in (pending-install,pending-upgrade,pending-rollback)",
)


def helm_install(chart: str = "charts/openinference") -> tuple[str, ...]:
    """Install a chart, or bring what is installed to it; later words win."""
    return (
        *("helm", "upgrade", "--install", "openinference", chart),
        *("--namespace", SYSTEM_NAMESPACE, "--create-namespace"),
        *("--set", "image.tag=dev", "--set", f"prometheus.url={PROMETHEUS}"),
        *("--wait", "--timeout", "3m"),
    )


HELM_INSTALL = helm_install()


def type_in(*words: str) -> None:
    """Run a command in the project, against the local cluster, as a user would."""
    subprocess.run(words, cwd=PROJECT, env=os.environ | environment(), check=True)
