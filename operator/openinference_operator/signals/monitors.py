"""What Prometheus Operator has been told: looked up now and then, as its kinds may not exist."""

from collections.abc import Sequence
from time import monotonic

from openinference_operator import names
from openinference_operator.cluster import Cluster
from openinference_operator.errors import NotFound
from openinference_operator.manifests.monitoring import KINDS
from openinference_operator.observe import Live
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

INTERVAL_SECONDS = 60.0


class Monitors:
    """Our monitors and alerts of each namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._looked: dict[str, tuple[float, frozenset[str]]] = {}

    async def look(self, owners: Sequence[InferenceService]) -> tuple[Live, set[str]]:
        """What is there in a namespace, and which of the kinds exist.

        That is asked once a minute, and when the services of the namespace are others; in between
        no kind is said to exist, so that nothing is written.
        """
        namespace, uids = owners[0].namespace, frozenset(owner.uid for owner in owners)
        looked_at, known = self._looked.get(namespace, (-INTERVAL_SECONDS, frozenset()))
        if known == uids and monotonic() - looked_at < INTERVAL_SECONDS:
            return {}, set()
        live: dict[tuple[str, str], Object] = {}
        kinds = set()
        for kind in KINDS:
            try:
                listed = self._cluster.list_all(kind, namespace, names.OWN_OBJECTS)
                live |= {(kind, obj["metadata"]["name"]): obj async for obj in listed}
                kinds.add(kind)
            except NotFound:
                continue
        self._looked[namespace] = (monotonic(), uids)
        return live, kinds
