"""What keeps a replica from its pod, or its pod from a node or its volumes: asked only then.

Pods of others are not watched, for most clusters have thousands; while one of ours finds no node
they are listed once, and again when that is old. An operator that may not list them, as in
namespaced mode, leaves it at what the scheduler says.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import monotonic, time

from openinference_operator.admission import admitting
from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.groups import Group
from openinference_operator.shortage import Used, explain, reserve
from openinference_operator.signals.nodes import Nodes
from openinference_operator.spec import InferenceService

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
PATIENCE_SECONDS = 5.0  # a StatefulSet controller that is well makes a pod within a second
REMEMBERED = 1_000


class Stuck:
    """Asks the API server about groups that do not get on."""

    def __init__(self, cluster: Cluster, nodes: Nodes) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._listed_at = -INTERVAL_SECONDS
        self._used: Used | None = None
        self._listing = asyncio.Lock()
        self._answers: dict[str, tuple[float, str]] = {}

    async def shortages(self, service: InferenceService, groups: Sequence[Group]) -> dict[str, str]:
        """What the pods lack that find no node, by group, on nodes that may hold them."""
        lacking = {
            group.name: group.trouble.lacking
            for group in groups
            if group.trouble is not None and group.trouble.lacking
        }
        if not lacking or "nodeAffinity" in service.pod_template.affinity:
            return {}  # which nodes an affinity allows the scheduler knows, and its words tell
        try:
            nodes = admitting(service, await self._nodes.all())
        except ApiError:
            return {}
        used = await self._used_by_node()
        if used is None:
            return {}
        told = {name: explain(amounts, nodes, used) for name, amounts in lacking.items()}
        return {name: words for name, words in told.items() if words}

    async def refusals(self, namespace: str, groups: Sequence[Group]) -> dict[str, str]:
        """Why the pods that do not exist were refused, by group; empty words if nobody tells."""
        return {
            group.name: await self._told(namespace, f"{group.uid},reason=FailedCreate")
            for group in groups
            if lacks_pod(group) and _is_late(group)
        }

    async def stalls(self, namespace: str, groups: Sequence[Group]) -> dict[str, str]:
        """Why containers of pods on a node are not made, by group: a volume, the network, …"""
        told = {
            group.name: await self._told(namespace, f"{group.being_made.uid},type=Warning")
            for group in groups
            if group.being_made is not None and _is_late(group)
        }
        return {name: words for name, words in told.items() if words}

    async def _told(self, namespace: str, about: str) -> str:
        """The newest event, as last told: a group is reconciled far more often than it is said."""
        asked_at, words = self._answers.pop(about, (-PATIENCE_SECONDS, ""))
        if monotonic() - asked_at >= PATIENCE_SECONDS:
            asked_at, words = monotonic(), await self._ask_why(namespace, about)
        self._answers[about] = (asked_at, words)
        if len(self._answers) > REMEMBERED:
            self._answers.pop(next(iter(self._answers)))
        return words

    async def _ask_why(self, namespace: str, about: str) -> str:
        selector = f"involvedObject.uid={about}"
        try:
            events = [
                event
                async for event in self._cluster.list_all(
                    "Event", namespace, "", field_selector=selector
                )
            ]
        except ApiError as error:
            log.info("events not listed: about=%s error=%s", about, error)
            return ""
        newest = max(events, key=lambda event: event.get("lastTimestamp") or "", default={})
        return str(newest.get("message", ""))

    async def _used_by_node(self) -> Used | None:
        """What all pods take, added up page by page; None while they could not be listed."""
        async with self._listing:
            if monotonic() - self._listed_at >= INTERVAL_SECONDS:
                await self._list_pods()
        return self._used

    async def _list_pods(self) -> None:
        try:
            used: Used = {}
            async for pod in self._cluster.list_all("Pod", "", ""):
                reserve(used, pod)
            self._used = used
        except ApiError as error:
            log.info("pods not listed: error=%s", error)
        self._listed_at = monotonic()


def lacks_pod(group: Group) -> bool:
    """Whether a pod of it does not exist that should."""
    return None in group.members and not (group.is_going or group.is_given_up)


def _is_late(group: Group) -> bool:
    return group.created_at < time() - PATIENCE_SECONDS
