"""Which service a request means: by its Host, else by its `model`.

Pure: an immutable table over the routing documents of the namespace.
"""

from collections.abc import Iterable

from openinference_router.errors import Refusal
from openinference_router.wire import Routing


class RoutingTable:
    """All services of one namespace. Of two with one model name the older keeps it."""

    def __init__(self, namespace: str, routings: Iterable[Routing] = ()) -> None:
        self._namespace = namespace
        self._by_service = {routing.service: routing for routing in routings}
        self._by_model: dict[str, Routing] = {}
        for routing in sorted(self._by_service.values(), key=_age):
            self._by_model.setdefault(routing.model, routing)

    def models(self) -> list[Routing]:
        """The routing that answers for each model name, oldest first."""
        return list(self._by_model.values())

    def select(self, host: str, model: str | None) -> Routing:
        """The routing meant by the Host header and the body's `model`.

        Raises Refusal: 404 when they disagree or mean nothing here, 400 when neither is given.
        """
        by_host = self._by_service.get(self._service_of(host))
        if by_host is not None:
            if model is not None and model != by_host.model:
                raise _not_found(
                    f"model '{model}' is not served by '{by_host.service}', "
                    f"which serves '{by_host.model}'"
                )
            return by_host
        if model is None:
            raise Refusal(400, "you must name a model", code="missing_model", parameter="model")
        by_model = self._by_model.get(model)
        if by_model is None:
            known = ", ".join(f"'{name}'" for name in sorted(self._by_model)) or "none"
            raise _not_found(f"model '{model}' does not exist; models here: {known}")
        return by_model

    def _service_of(self, host: str) -> str:
        """`<name>`, `<name>.<namespace>` or `<name>.<namespace>.svc…` → name, else empty."""
        name, *domain = host.rsplit(":", 1)[0].rstrip(".").lower().split(".")
        is_ours = (
            not domain or domain == [self._namespace] or domain[:2] == [self._namespace, "svc"]
        )
        return name if is_ours else ""


def _age(routing: Routing) -> tuple[str, str]:
    return routing.created_at.isoformat(), routing.service


def _not_found(message: str) -> Refusal:
    return Refusal(404, message, code="model_not_found", parameter="model")
