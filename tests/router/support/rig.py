"""One service with a clock that the tests turn."""

from dataclasses import dataclass
from datetime import UTC, datetime

from openinference_router.choice import Wish
from openinference_router.service import Service
from openinference_router.waiting import Caller
from openinference_router.wire import BalancingPolicy, LoadReport, QueuePolicy, RoutedGroup, Routing


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def routing(num_groups: int = 1, balancing: BalancingPolicy | None = None, **queue) -> Routing:
    groups = tuple(
        RoutedGroup(f"g{number}", "r1", f"http://g{number}:8000", "Active")
        for number in range(num_groups)
    )
    created_at = datetime(2026, 1, 1, tzinfo=UTC)
    balancing = balancing or BalancingPolicy()
    return Routing("demo", "m", 1, created_at, groups, QueuePolicy(**queue), balancing)


class Rig:
    """A service, its clock, and requests of one caller."""

    def __init__(self, num_groups: int = 1, **policies) -> None:
        self.clock = Clock()
        self.service = Service(routing(num_groups, **policies), self.clock, lambda: None)

    def report(self, number: int = 0, **load) -> None:
        group = self.service.groups[f"g{number}"]
        report = LoadReport(**{"ready": True, "seats": 1, "resume_key": "k", **load})
        self.service.report(group, report)

    def enter(self, **wish):
        return self.service.enter(self.service.rank(Caller()), Wish(**wish))
