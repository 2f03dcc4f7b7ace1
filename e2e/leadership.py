"""Which of the operator's pods leads: the holder of its Lease."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from e2e.asks import Json
from e2e.kube import Kube, KubeError

LEASE = "openinference-operator"
TIMEOUT_SECONDS = 120.0


async def leader(system: Kube) -> Json:
    """The pod that holds the lease and is not on its way out, once there is one."""
    async with asyncio.timeout(TIMEOUT_SECONDS), aclosing(system.watch("leases")) as states:
        async for leases in states:  # one every two seconds at least
            for pod in await system.list("pods"):
                metadata = pod["metadata"]
                if metadata["name"] == holder(leases) and "deletionTimestamp" not in metadata:
                    return pod
    raise KubeError("a watch does not end")


async def until_predecessors_are_gone(system: Kube) -> None:
    """Wait until every deployment has rolled out and no pod is on its way out.

    To its end an operator that was replaced may lead; before the end of the rollout the last one
    may not have been told to go yet.
    """
    await system.run("rollout", "status", "deployment", "--timeout=2m")

    def none_goes(pods: Sequence[Json]) -> bool:
        return not any("deletionTimestamp" in pod["metadata"] for pod in pods)

    await system.until("pods", none_goes, TIMEOUT_SECONDS)


def holder(leases: Sequence[Json]) -> str:
    """Name of the pod that leads; empty between one that released the lease and the next."""
    specs = [each["spec"] for each in leases if each["metadata"]["name"] == LEASE]
    return str(specs[0].get("holderIdentity", "")) if specs else ""
