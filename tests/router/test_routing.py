from datetime import UTC, datetime

import pytest
from openinference_router.errors import Refusal
from openinference_router.routing import RoutingTable
from openinference_router.wire import Routing


def routing(service: str, model: str, day: int = 1) -> Routing:
    created_at = datetime(2026, 1, day, tzinfo=UTC)
    return Routing(service=service, model=model, generation=1, created_at=created_at)


TABLE = RoutingTable(
    "team-a",
    [
        routing("young", "shared", day=9),
        routing("old", "shared", day=2),
        routing("demo", "smollm2", day=5),
    ],
)


@pytest.mark.parametrize(
    ("host", "model", "service"),
    [
        ("localhost:8080", "smollm2", "demo"),
        ("10.1.2.3", "smollm2", "demo"),
        ("demo", "smollm2", "demo"),
        ("demo", None, "demo"),
        ("demo:80", None, "demo"),
        ("DEMO.Team-A", None, "demo"),
        ("demo.team-a.svc", None, "demo"),
        ("demo.team-a.svc.cluster.local.:8080", None, "demo"),
        ("demo.team-b.svc", "smollm2", "demo"),
        ("demo.example.com", "shared", "old"),
        ("young", "shared", "young"),
        ("", "shared", "old"),
    ],
)
def test_host_names_the_service_if_it_matches_one_else_the_model_does(host, model, service):
    assert TABLE.select(host, model).service == service


@pytest.mark.parametrize(
    ("host", "model", "status", "words"),
    [
        ("demo", "shared", 404, ["shared", "demo", "smollm2"]),
        ("localhost", "gpt-4", 404, ["gpt-4", "'shared', 'smollm2'"]),
        ("localhost", None, 400, ["model"]),
        ("demo.team-b", None, 400, ["model"]),
    ],
)
def test_refusals_name_what_was_asked_and_what_there_is(host, model, status, words):
    with pytest.raises(Refusal) as caught:
        TABLE.select(host, model)
    assert caught.value.status == status
    assert [word for word in words if word not in caught.value.message] == []


def test_the_older_of_two_services_keeps_a_model_name():
    assert [(entry.service, entry.model) for entry in TABLE.models()] == [
        ("old", "shared"),
        ("demo", "smollm2"),
    ]
