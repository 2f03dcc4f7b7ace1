"""Leadership: of several replicas of the operator, the holder of one Lease writes.

A holder believes in its lease for less time than others wait before they take it, counted by its
own monotonic clock from before the call that renewed it; so clocks need not agree. A candidate
takes a lease that it has seen unchanged for its whole duration, or that was released.
"""

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from openinference_operator.cluster import Cluster
from openinference_operator.errors import ApiError, LeaseLost, NotFound
from openinference_operator.metrics import IS_LEADER

log = logging.getLogger(__name__)

NAME = "openinference-operator"
DURATION_SECONDS = 15
BELIEF_SECONDS = 10.0
PERIOD_SECONDS = 2.0


class Lease:
    """The lease as this replica sees it."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._identity = identity
        self._believed_until = 0.0
        self._seen_renewal = ""
        self._seen_at = 0.0
        self._acquired = asyncio.Event()
        self.term = 0
        """Counts how often this replica became the leader."""

    @property
    def is_held(self) -> bool:
        """Whether this replica may write now."""
        return monotonic() < self._believed_until

    def check(self) -> None:
        """Raise LeaseLost unless this replica may write now."""
        if not self.is_held:
            raise LeaseLost(f"{self._identity} does not hold the lease {NAME}")

    async def wait_until_held(self) -> None:
        """Return when this replica may write."""
        while not self.is_held:
            self._acquired.clear()
            await self._acquired.wait()

    async def keep(self) -> None:
        """Acquire the lease and renew it, for ever."""
        while True:
            was_held = self.is_held
            try:
                await self._try_once()
            except ApiError as error:
                log.warning("lease not renewed: error=%s", error)
            if self.is_held != was_held:
                log.info("leadership: held=%s identity=%s", self.is_held, self._identity)
            IS_LEADER.set(self.is_held)
            await asyncio.sleep(PERIOD_SECONDS)

    async def release(self) -> None:
        """Give the lease up, so that another replica need not wait for its end."""
        if not self.is_held:
            return
        self._believed_until = 0.0
        try:
            present = await self._cluster.get("Lease", self._namespace, NAME)
            if present["spec"].get("holderIdentity") == self._identity:
                await self._cluster.replace(_lease(present, "", duration_seconds=1))
        except ApiError as error:
            log.warning("lease not released: error=%s", error)

    async def _try_once(self) -> None:
        asked_at = monotonic()
        try:
            present = await self._cluster.get("Lease", self._namespace, NAME)
        except NotFound:
            metadata = {"name": NAME, "namespace": self._namespace}
            await self._cluster.create(_lease({"metadata": metadata, "spec": {}}, self._identity))
        else:
            if not self._may_take(present.get("spec") or {}, asked_at):
                return
            await self._cluster.replace(_lease(present, self._identity))
        self.term += not self.is_held
        self._believed_until = asked_at + BELIEF_SECONDS
        self._acquired.set()

    def _may_take(self, spec: Mapping[str, Any], now: float) -> bool:
        if spec.get("holderIdentity") in (None, "", self._identity):
            return True
        if spec.get("renewTime") != self._seen_renewal:
            self._seen_renewal, self._seen_at = spec.get("renewTime", ""), now
        return now - self._seen_at > float(spec.get("leaseDurationSeconds", DURATION_SECONDS))


def _lease(
    present: Mapping[str, Any], holder: str, duration_seconds: int = DURATION_SECONDS
) -> dict[str, Any]:
    """The Lease with a new holder; its resourceVersion makes two takers collide."""
    spec = dict(present.get("spec") or {})
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if spec.get("holderIdentity") != holder:
        spec["acquireTime"] = now
        spec["leaseTransitions"] = spec.get("leaseTransitions", 0) + 1
    spec |= {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": duration_seconds}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": present["metadata"],
        "spec": spec,
    }
