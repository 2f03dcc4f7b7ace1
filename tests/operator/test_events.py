"""Events, and an API server that wishes to be left alone (a small model of one, over real HTTP)."""

import itertools

import pytest
from openinference_operator import events, names
from openinference_operator.errors import ApiError
from openinference_operator.events import Recorder
from openinference_operator.manifests import services
from openinference_operator.notes import Note, notes_on
from openinference_operator.operations import (
    Annotate,
    Apply,
    Create,
    Delete,
    Reference,
)

from tests.operator.raw import statefulset


async def test_the_same_words_are_one_event(cluster, server, raw_service):
    recorder = Recorder(cluster)
    for _ in range(3):
        await recorder.record(raw_service(), Note("Scaled", "1 -> 2"))
    await recorder.record(raw_service(), Note("Scaled", "2 -> 3"))
    sent = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert sorted(event["message"] for event in sent) == ["1 -> 2", "2 -> 3"]
    assert len([call for call in server.calls if "/events" in call[1]]) == 2


@pytest.mark.parametrize("leaders", [1, 2])
async def test_an_event_that_comes_again_counts_on_whoever_leads(
    cluster, server, raw_service, monkeypatch, leaders
):
    """The second leader said it for the first time, as `kubectl describe` had it."""
    recorders = itertools.cycle([Recorder(cluster) for _ in range(leaders)])
    for seconds in (1000, 2000, 3000):
        monkeypatch.setattr(events, "time", lambda: seconds)  # noqa: B023  (called in this turn)
        monkeypatch.setattr(events, "monotonic", lambda: seconds)  # noqa: B023
        await next(recorders).record(raw_service(), Note("Scaled", "1 -> 2"))
    [event] = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert event["message"] == "1 -> 2"
    assert event["count"] == 3
    assert event["firstTimestamp"] == "1970-01-01T00:16:40Z"
    assert event["lastTimestamp"] == "1970-01-01T00:50:00Z"


async def test_an_event_that_fails_stops_nothing(cluster, server, raw_service):
    server.failures = [403]
    recorder = Recorder(cluster)
    await recorder.record(raw_service(), Note("Scaled", "1 -> 2"))
    await recorder.record(raw_service(), Note("Scaled", "2 -> 3"))
    [event] = [obj for path, obj in server.objects.items() if "/events/" in path]
    assert event["message"] == "2 -> 3"


def test_every_decision_is_told(service):
    place = Reference("StatefulSet", "team-a", "demo-1a2b3c4d-0", "uid", "1")
    operations = [
        Create(statefulset(service)),
        Annotate(place, {names.ANNOTATION_DRAINING_SINCE: "now"}),
        Delete(place),
        Apply(services.build_client_service(service), exists=True),
    ]
    assert [note.reason for note in notes_on(operations)] == [
        "GroupCreated",
        "GroupDraining",
        "GroupDeleted",
    ]


async def test_the_api_servers_wish_to_be_left_alone_is_heard(cluster, server, service):
    server.failures = [429]
    with pytest.raises(ApiError) as refusal:
        await cluster.create(statefulset(service))
    assert refusal.value.retry_after_seconds == 1
