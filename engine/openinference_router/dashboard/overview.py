"""What the page shows now: what this router knows of each service, beside what the cluster says.

Pure; the field names are those that `static/` reads.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from openinference_router.dashboard.cluster import Event, InferenceService, Status
from openinference_router.group import Group
from openinference_router.service import Service
from openinference_router.wire import LoadReport


class Replica(msgspec.Struct, frozen=True, rename="camel"):
    """A group as this router sees it; `load` is what it reported last."""

    id: str
    revision: str
    state: str
    weight: int
    admitted: bool
    in_flight: int
    load: LoadReport | None


class ServiceView(msgspec.Struct, frozen=True, rename="camel"):
    """One service; `status` is null where the cluster does not tell it."""

    name: str
    model: str
    suspended: bool
    held: int
    in_flight: int
    replicas: tuple[Replica, ...]
    status: Status | None


class Overview(msgspec.Struct, frozen=True, rename="camel"):
    namespace: str
    router: str
    trouble: str
    """Why statuses or events are missing."""
    services: tuple[ServiceView, ...]
    events: Sequence[Event]


def build_overview(
    *,
    namespace: str,
    router: str,
    trouble: str,
    routed: Iterable[Service],
    declared: Mapping[str, InferenceService],
    events: Sequence[Event],
) -> Overview:
    """All services by name: routed here, declared in the cluster, or both."""
    by_name = {service.name: service for service in routed}
    services = tuple(
        _service_view(name, by_name.get(name), declared.get(name))
        for name in sorted(by_name.keys() | declared.keys())
    )
    return Overview(namespace, router, trouble, services, events)


def _service_view(
    name: str, routed: Service | None, declared: InferenceService | None
) -> ServiceView:
    return ServiceView(
        name=name,
        model=routed.routing.model if routed else "",
        suspended=declared.spec.suspend if declared else False,
        held=routed.held if routed else 0,
        in_flight=routed.in_flight if routed else 0,
        replicas=tuple(map(_replica, routed.groups.values())) if routed else (),
        status=declared.status if declared else None,
    )


def _replica(group: Group) -> Replica:
    return Replica(
        id=group.id,
        revision=group.routed.revision,
        state=group.routed.state,
        weight=group.routed.weight,
        admitted=group.is_admitted,
        in_flight=group.in_flight,
        load=group.load,
    )
