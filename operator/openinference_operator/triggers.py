"""Which keys a change concerns: what is seen of the cluster and of the routers fills the queue."""

from collections.abc import Iterable
from dataclasses import dataclass

from openinference_operator import names
from openinference_operator.routers import find_router_trouble, observe_routers, router_endpoint
from openinference_operator.signals.router_state import Endpoint, RouterStates
from openinference_operator.store import Object, Store, service_of
from openinference_operator.workqueue import WorkQueue


@dataclass(frozen=True, slots=True)
class Key:
    """What is reconciled: an InferenceService, or the router of a namespace (no service)."""

    namespace: str
    service: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service or 'router'}"


SECONDS_PER_OWNER = 0.005  # between two writes of the objects of a router, for each service


class Triggers:
    """Turns changes into keys; a change that nobody would act on wakes nobody."""

    def __init__(self, store: Store, states: RouterStates, queue: WorkQueue[Key]) -> None:
        self._store = store
        self._states = states
        self._queue = queue
        self._specs: dict[Key, tuple[object, ...]] = {}
        self._router_pods: dict[str, tuple[object, ...]] = {}

    def changed(self, obj: Object) -> None:
        """Reconcile what an object that was created, changed or deleted belongs to."""
        namespace, service = obj["metadata"]["namespace"], service_of(obj)
        self._queue.add(Key(namespace, service))
        if obj["kind"] == names.KIND and self._is_new_spec(obj):
            self._wake_router(namespace)
        if obj["kind"] in ("Pod", "Deployment") and not service:
            self._follow_routers(namespace)

    def states_changed(self, namespace: str, services: Iterable[str]) -> None:
        """Reconcile services about which a router said something new."""
        for service in services:
            self._queue.add(Key(namespace, service))

    def routers_are_connecting(self, namespace: str) -> bool:
        """Whether a router pod has not said anything yet; what it knows will be known shortly."""
        return any(map(self._states.is_connecting, self._endpoints(namespace)))

    def forget(self, key: Key) -> None:
        """Drop what is known of a service that is no more."""
        self._specs.pop(key, None)

    def _endpoints(self, namespace: str) -> list[Endpoint]:
        pods = self._store.select("Pod", namespace, "")
        return [endpoint for pod in pods if (endpoint := router_endpoint(pod)) is not None]

    def _follow_routers(self, namespace: str) -> None:
        """Listen to the router pods; services hear only of what they see of these."""
        endpoints = self._endpoints(namespace)
        self._states.follow(namespace, endpoints)
        routers = observe_routers(self._store, namespace, lambda _: None)
        seen = (*endpoints, *routers, find_router_trouble(self._store, namespace))
        if seen == self._router_pods.get(namespace):
            return
        self._router_pods[namespace] = seen
        for raw in self._store.services(namespace):
            self._queue.add(Key(namespace, raw["metadata"]["name"]))

    def _wake_router(self, namespace: str) -> None:
        """Let the router's objects get their new owners; of many new ones several at once.

        The first service of a namespace needs its router at once. Each object of the router names
        all its owners: to write a thousand names for each of a thousand services would take longer
        than the services do.
        """
        key = Key(namespace, "")
        if self._store.select("Deployment", namespace, ""):
            num_services = len(self._store.services(namespace))
            self._queue.add_after(key, SECONDS_PER_OWNER * num_services)
        else:
            self._queue.add(key)

    def _is_new_spec(self, raw: Object) -> bool:
        """Whether a custom resource is another one than the routers' owners were rendered from."""
        metadata = raw["metadata"]
        spec = (metadata["uid"], metadata["generation"], metadata.get("deletionTimestamp"))
        key = Key(metadata["namespace"], metadata["name"])
        if self._specs.get(key) == spec:
            return False
        self._specs[key] = spec
        return True
