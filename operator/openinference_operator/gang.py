"""Which groups give up the nodes they hold, because other pods of theirs find none: pure.

A group computes nothing until all its pods have a node. Kubernetes places pods one by one, so two
groups may each hold what the other lacks, for ever. Of all groups that hold some nodes and wait
for more, in the whole cluster, only the one that has tried longest goes on; the others give up at
once. It gives up too when it has waited long: sooner where somebody waits who holds nothing. To
give up is to have no pods (its StatefulSet keeps its name and place in the rollout), and to try
again after a pause that doubles each time.

All leaders of all services decide by the same order, so they need not speak to each other.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from openinference_operator import names, timestamps
from openinference_operator.pod_status import RawPod, condition
from openinference_operator.shortage import ENDED

CONTENDED_SECONDS = 60.0
ALONE_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
REMEMBERED_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A group with pods that find no node; in the order of `tried_at`, the oldest pod's time.

    `since`: when the first of its pods found none. `num_placed`: pods of it that hold a node.
    """

    tried_at: float
    namespace: str
    group: str
    since: float
    num_placed: int


def find_waiting(pods: Iterable[RawPod]) -> list[Waiting]:
    """The groups that wait, among engine pods of all namespaces."""
    by_group = defaultdict(list)
    for pod in pods:
        metadata = pod["metadata"]
        group = (metadata.get("labels") or {}).get(names.LABEL_GROUP)
        if group and "deletionTimestamp" not in metadata:
            by_group[metadata["namespace"], group].append(pod)
    found = (_read(*key, members) for key, members in by_group.items())
    return [waiting for waiting in found if waiting is not None]


def to_give_up(waiting: Collection[Waiting], now: float) -> set[tuple[str, str]]:
    """Namespace and name of the groups that give up now what they hold."""
    holders = sorted(each for each in waiting if each.num_placed)
    if not holders:
        return set()
    first, *others = holders
    patience = CONTENDED_SECONDS if len(waiting) > len(holders) else ALONE_SECONDS
    given_up = [*others, first] if now >= first.since + patience else others
    return {(each.namespace, each.group) for each in given_up}


def retry_at(given_up_at: Iterable[float]) -> float:
    """When a group tries again that gave up at these times, the last of them now."""
    times = sorted(given_up_at)
    lately = [time for time in times if time > times[-1] - REMEMBERED_SECONDS]
    pause = FIRST_PAUSE_SECONDS * 2.0 ** min(len(lately) - 1, 10)
    return times[-1] + min(pause, LONGEST_PAUSE_SECONDS)


def note(given_up_at: Iterable[float], now: float) -> str:
    """The annotation after one more time."""
    lately = (time for time in given_up_at if time > now - REMEMBERED_SECONDS)
    return ",".join(map(timestamps.to_text, [*lately, now]))


def _read(namespace: str, group: str, pods: list[RawPod]) -> Waiting | None:
    unplaced = [pod for pod in pods if _found_no_node(pod)]
    if not unplaced:
        return None
    times = [condition(pod, "PodScheduled").get("lastTransitionTime") for pod in unplaced]
    created = [timestamps.from_text(pod["metadata"]["creationTimestamp"]) for pod in pods]
    return Waiting(
        tried_at=min(created),
        namespace=namespace,
        group=group,
        since=min(map(timestamps.from_text, filter(None, times)), default=min(created)),
        num_placed=sum(_holds_node(pod) for pod in pods),
    )


def _found_no_node(pod: RawPod) -> bool:
    return condition(pod, "PodScheduled").get("status") == "False"


def _holds_node(pod: RawPod) -> bool:
    return "nodeName" in pod["spec"] and pod.get("status", {}).get("phase") not in ENDED
