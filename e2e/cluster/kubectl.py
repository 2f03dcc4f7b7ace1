"""Talking to the running cluster the way a user does: with kubectl and the written kubeconfig."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from e2e.cluster import addresses, places
from e2e.cluster.errors import ClusterError
from e2e.cluster.shell import run


def environment() -> dict[str, str]:
    """The variables that make kubectl and helm speak to this cluster."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return {
        "KUBECONFIG": str(places.kubeconfig()),
        "PATH": f"{places.tools()}:{path}",
        "NO_PROXY": no_proxy(os.environ),
    }


def no_proxy(variables: Mapping[str, str]) -> str:
    """The user's exceptions from the proxy, and every block that a cluster may live in."""
    given = variables.get("NO_PROXY") or variables.get("no_proxy")
    return ",".join((*([given] if given else []), *map(str, addresses.CANDIDATES)))


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl and return what it printed."""
    return run("kubectl", *arguments, stdin=stdin, environment=environment())


def api_is_ready() -> bool:
    """Say whether the API server answers and all its checks pass."""
    try:
        return kubectl("get", "--raw=/readyz", "--request-timeout=5s") == "ok"
    except ClusterError:
        return False


def ready_nodes() -> list[str]:
    """The names of the nodes that can take pods."""
    listed = json.loads(kubectl("get", "nodes", "--output=json"))["items"]
    return [node["metadata"]["name"] for node in listed if _is_ready(node)]


def wait_for_rollout(namespace: str, deployment: str, timeout_seconds: int = 120) -> None:
    """Return when all pods of the deployment's newest template are available."""
    limit = f"--timeout={timeout_seconds}s"
    kubectl("rollout", "status", f"--namespace={namespace}", limit, f"deployment/{deployment}")


def wait_for_nodes(names: Sequence[str], timeout_seconds: float = 180) -> None:
    """Return when all named nodes are ready."""
    deadline = time.monotonic() + timeout_seconds
    while missing := set(names) - set(ready_nodes()):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"Not ready after {timeout_seconds:g} s: {', '.join(sorted(missing))}; "
                f"see the logs in {places.LOGS}."
            )
        time.sleep(0.3)


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions = node.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
