"""The commands that a user would type, in one place: tests run them, the demo also shows them."""

import sys

SYSTEM_NAMESPACE = "openinference-system"
PROMETHEUS = "http://prometheus.monitoring:9090"

CLUSTER_UP = (sys.executable, "-m", "e2e.cluster", "up")
# An installation that was killed leaves its release locked for ever; nothing else is deleted.
HELM_UNLOCK = (
    *("kubectl", "delete", "secret", "--namespace", SYSTEM_NAMESPACE, "--selector"),
    "owner=helm,name=openinference,status in (pending-install,pending-upgrade,pending-rollback)",
)
HELM_INSTALL = (
    *("helm", "upgrade", "--install", "openinference", "charts/openinference"),
    *("--namespace", SYSTEM_NAMESPACE, "--create-namespace"),
    *("--set", "image.tag=dev", "--set", f"prometheus.url={PROMETHEUS}"),
    *("--wait", "--timeout", "3m"),
)
