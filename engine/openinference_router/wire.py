"""The documents that the router reads and writes, as docs/wire.md defines them.

routing.json comes from the operator, `/load` events from engines, `/state` events go to the
operator. Unknown fields are ignored, so that either side may be upgraded first.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

TOKEN_HEADER = "x-openinference-token"  # noqa: S105  the header's name, not a secret

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RoutedGroup(msgspec.Struct, frozen=True, rename="camel"):
    """One replica as the operator lists it."""

    id: Name
    revision: str
    address: Annotated[str, msgspec.Meta(pattern="^https?://[^/]+$")]
    state: Literal["Active", "Draining"]
    weight: Annotated[int, msgspec.Meta(ge=0, le=100)] = 100


class QueuePolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How many requests may wait, and how long: behind others, or for a first replica."""

    max_requests: Annotated[int, msgspec.Meta(ge=0)] = 1000
    contended_timeout_seconds: Seconds = 60.0
    cold_start_timeout_seconds: Seconds = 600.0


class Routing(msgspec.Struct, frozen=True, rename="camel"):
    """Key `routing.json` of one ConfigMap: one service."""

    service: Name
    model: Name
    generation: int
    created_at: datetime
    groups: tuple[RoutedGroup, ...] = ()
    queue: QueuePolicy = QueuePolicy()


class LoadReport(msgspec.Struct, frozen=True, rename="camel"):
    """One `load` event: what an engine says about itself."""

    ready: bool
    draining: bool = False
    seats: Annotated[int, msgspec.Meta(ge=1)] = 1
    running: Annotated[int, msgspec.Meta(ge=0)] = 0
    waiting: Annotated[int, msgspec.Meta(ge=0)] = 0
    queued_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    prefill_tokens_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    decode_tokens_per_second: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    resume_key: str = ""


class GroupState(msgspec.Struct, frozen=True, rename="camel"):
    admitted: bool
    in_flight: int
    waiting: int
    running: int


class ServiceState(msgspec.Struct, frozen=True, rename="camel"):
    generation: int
    held: int
    groups: dict[str, GroupState]


class RouterState(msgspec.Struct, frozen=True, rename="camel"):
    """One `state` event."""

    router: str
    draining: bool
    services: dict[str, ServiceState]
