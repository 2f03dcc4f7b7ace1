"""The documents that the router reads and writes, as docs/wire.md defines them.

routing.json comes from the operator, `/load` events from engines, `/state` events go to the
operator. Unknown fields are ignored, so that either side may be upgraded first.
"""

import math
from datetime import datetime
from typing import Annotated, Literal

import msgspec

TOKEN_HEADER = "x-openinference-token"  # noqa: S105  the header's name, not a secret

FULL_WEIGHT = 100
PREFIX_AWARE = "PrefixAware"

Name = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class RoutedGroup(msgspec.Struct, frozen=True, rename="camel"):
    """One replica as the operator lists it."""

    id: Name
    revision: str
    address: Annotated[str, msgspec.Meta(pattern="^https?://[^/]+$")]
    state: Literal["Active", "Draining"]
    weight: Annotated[int, msgspec.Meta(ge=0, le=FULL_WEIGHT)] = FULL_WEIGHT


class QueuePolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How many requests may wait, and how long: behind others, or for a first replica."""

    max_requests: Annotated[int, msgspec.Meta(ge=0)] = 1000
    contended_timeout_seconds: Seconds = 60.0
    cold_start_timeout_seconds: Seconds = 600.0


class BalancingPolicy(msgspec.Struct, frozen=True, rename="camel"):
    """How a group is chosen; an algorithm that this router does not know yet is least load."""

    algorithm: str = "LeastLoad"
    session_header: str = ""
    """Requests with one value of this header stay together; empty: there is no such header."""


class Routing(msgspec.Struct, frozen=True, rename="camel"):
    """Key `routing.json` of one ConfigMap: one service."""

    service: Name
    model: Name
    generation: int
    created_at: datetime
    groups: tuple[RoutedGroup, ...] = ()
    queue: QueuePolicy = QueuePolicy()
    balancing: BalancingPolicy = BalancingPolicy()
    drain_timeout_seconds: Seconds = 600.0

    def part_of(self, routers: int) -> "Routing":
        """The part of one of so many router pods: bounds of the queue are those of all."""
        part = math.ceil(self.queue.max_requests / routers)
        queue = msgspec.structs.replace(self.queue, max_requests=part)
        return msgspec.structs.replace(self, queue=queue)


class LoadReport(msgspec.Struct, frozen=True, rename="camel"):
    """One `load` event: what an engine says about itself."""

    ready: bool
    draining: bool = False
    seats: Annotated[int, msgspec.Meta(ge=1)] = 1
    running: Annotated[int, msgspec.Meta(ge=0)] = 0
    waiting: Annotated[int, msgspec.Meta(ge=0)] = 0
    queued_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    kv_usage: Annotated[float, msgspec.Meta(ge=0)] = 0.0
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
