"""The operator's own configuration, from `OPENINFERENCE_OPERATOR_*` (docs/wire.md)."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What engines get whose InferenceService says nothing else."""

    image: str
    otlp_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How the router of every namespace is run."""

    image: str
    replicas: int
    resources: Mapping[str, Any]
    cluster_role: str
    prometheus_url: str
    otlp_endpoint: str = ""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Who besides routers may reach engines. `scrapers`: peers as in a NetworkPolicy."""

    is_enabled: bool
    operator_namespace: str
    scrapers: Sequence[Mapping[str, Any]]


class Settings(BaseSettings):
    """Read once at the start, never changed."""

    model_config = SettingsConfigDict(env_prefix="OPENINFERENCE_OPERATOR_", frozen=True)

    namespace: str = "default"
    """Where the operator itself runs, and its Lease is."""

    pod_name: str = Field(default_factory=socket.gethostname)
    """Its identity as a leader."""

    watch_namespace: str = ""
    """The only namespace to serve; empty serves all."""

    engine_image: str = "openinference/engine:dev"
    """Image of engines whose InferenceService names none; resolved once per revision."""

    router_image: str = ""
    """Image of routers; empty takes the engine's, which holds both."""

    router_replicas: int = Field(default=2, ge=1)
    """Router pods per namespace."""

    router_resources: dict[str, Any] = {}
    """`resources` of a router container, as JSON."""

    router_cluster_role: str = "openinference-router"
    """ClusterRole that the operator binds to each namespace's router."""

    network_policies: bool = True
    """Whether engines and routers are shut off from everybody but those who need them."""

    scrapers: list[dict[str, Any]] = [
        {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }
    ]
    """Who may scrape metrics, as peers of a NetworkPolicy in JSON."""

    prometheus_url: str = ""
    """Where PromQL is asked, also for the history on the routers' dashboard. Empty: demand is
    learned from the routers alone, and each router tells what it has seen itself."""

    otlp_endpoint: str = ""
    """Base address of OTLP over HTTP to which routers and engines send spans; empty: none. Engines
    take it up with their next revision."""

    port: int = Field(default=8080, ge=0, lt=65536)
    """Port of /metrics, /health and /ready; 0 takes a free one."""

    workers: int = Field(default=4, ge=1)
    """How many InferenceServices are reconciled at once."""

    log_format: Literal["json", "text"] = "json"
    """JSON lines, or text for people."""

    @property
    def engine(self) -> EngineSettings:
        """The part that the plan of an InferenceService needs."""
        return EngineSettings(self.engine_image, self.otlp_endpoint)

    @property
    def router(self) -> RouterSettings:
        """The part that the plan of a router needs."""
        return RouterSettings(
            image=self.router_image or self.engine_image,
            replicas=self.router_replicas,
            resources=self.router_resources,
            cluster_role=self.router_cluster_role,
            prometheus_url=self.prometheus_url,
            otlp_endpoint=self.otlp_endpoint,
        )

    @property
    def network(self) -> NetworkSettings:
        """The part that network policies need."""
        return NetworkSettings(self.network_policies, self.namespace, self.scrapers)
