"""What the router is told from outside: environment variables `OPENINFERENCE_ROUTER_*`.

Read once in `__main__`, immutable after. Everything about services and engines comes from the
routing ConfigMaps instead, so that a change there needs no restart.
"""

from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One router pod. Durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="OPENINFERENCE_ROUTER_", frozen=True)

    namespace: str = Field(default="default", min_length=1)
    """The namespace whose routing ConfigMaps are served."""
    pod_name: str = Field(default="router", min_length=1)
    """How this router signs its `/state`."""
    replicas: int = Field(default=1, ge=1)
    """Router pods of the namespace: limits of services and keys are divided by their number."""
    token_file: Path | None = None
    """Holds the namespace token. Without it engines must be open and a cut stream cannot resume."""

    prometheus_url: str = ""
    """Where the dashboard asks for the last hour; empty shows what this router saw itself."""

    otlp_endpoint: str = Field(
        default="",
        validation_alias=AliasChoices(
            "OPENINFERENCE_ROUTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
        ),
    )
    """Base address of OTLP over HTTP to which a span of each request goes; empty: none."""

    keys_secret: str = ""
    """Name of the Secret with the API keys; empty leaves the router open to anybody."""

    tls_secret: str = ""
    """Name of the Secret with the certificate; while it does not exist there is no port for TLS."""

    host: str = ""
    """Address to listen on; empty: all, of IPv4 and IPv6. NetworkPolicies say who may connect."""
    client_port: int = Field(default=8080, gt=0, lt=65536)
    tls_port: int = Field(default=8443, gt=0, lt=65536)
    internal_port: int = Field(default=8081, gt=0, lt=65536)

    max_body_bytes: int = Field(default=16 * 2**20, gt=0)
    """A larger request body is refused with 413."""
    body_timeout_seconds: float = Field(default=30.0, gt=0)
    """A body that has not arrived by then is refused with 408."""
    keep_alive_seconds: float = Field(default=5.0, gt=0)
    """A stream that waits this long for a seat gets a comment, again and again."""
    stall_timeout_seconds: float = Field(default=120.0, gt=0)
    """A stream that says nothing for so long after a token counts as cut; a resume follows."""
    first_token_timeout_seconds: float = Field(default=600.0, gt=0)
    """The same before the first token; a long prompt on a slow replica takes minutes."""
    endpoint_pause_seconds: float = Field(default=5.0, ge=0)
    """After SIGTERM connections are accepted this long: endpoints change with a delay."""
    drain_timeout_seconds: float = Field(default=600.0, ge=0)
    """After the pause, open requests get this long to finish."""

    def token(self) -> str | None:
        """The namespace token, None without a file. Raises OSError when there is none inside."""
        if self.token_file is None:
            return None
        token = self.token_file.read_text().strip()
        if not token:
            raise OSError(f"{self.token_file} is empty; it must hold the namespace token")
        return token
