"""What Prometheus Operator has been told: looked up now and then, as its kinds may not exist."""

import logging
from collections.abc import Sequence
from time import monotonic

from openinference_operator import names
from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError
from openinference_operator.manifests.monitoring import KINDS
from openinference_operator.observe import Live
from openinference_operator.spec import InferenceService
from openinference_operator.store import Object

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0


class Monitors:
    """Our monitors and alerts of each namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kept: dict[str, tuple[float, frozenset[str]]] = {}
        self._forbidden: set[str] = set()

    async def look(self, owners: Sequence[InferenceService]) -> tuple[Live, set[str]] | None:
        """What is there in a namespace, and which of the kinds exist.

        That is asked again a minute after all was `kept`, and when the services of the namespace
        are others; in between it is None.
        """
        namespace, uids = _scope(owners)
        kept_at, known = self._kept.get(namespace, (-INTERVAL_SECONDS, frozenset()))
        if known == uids and monotonic() - kept_at < INTERVAL_SECONDS:
            return None
        live: dict[tuple[str, str], Object] = {}
        kinds = set()
        for kind in KINDS:
            try:
                listed = self._cluster.list_all(kind, namespace, names.OWN_OBJECTS)
                live |= {(kind, obj["metadata"]["name"]): obj async for obj in listed}
                kinds.add(kind)
            except ApiError as error:
                if error.status not in (403, 404):
                    raise
                self._note(kind, error)
        return live, kinds

    def kept(self, owners: Sequence[InferenceService]) -> None:
        """Remember that what follows from the last look is written."""
        namespace, uids = _scope(owners)
        self._kept[namespace] = (monotonic(), uids)

    def _note(self, kind: str, error: ApiError) -> None:
        """Say once that a kind may not be read: it is left alone, as one that does not exist."""
        if error.status == 403 and kind not in self._forbidden:
            self._forbidden.add(kind)
            log.warning("left unwritten until the operator may list it: kind=%s %s", kind, error)


def _scope(owners: Sequence[InferenceService]) -> tuple[str, frozenset[str]]:
    return owners[0].namespace, frozenset(owner.uid for owner in owners)
