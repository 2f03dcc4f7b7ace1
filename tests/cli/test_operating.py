"""What status, rollback and doctor decide, from objects as the API server gives them."""

import copy
import json

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openinferencev2 import services
from openinferencev2.checks import Facts, examine
from openinferencev2.deploy import manifest
from openinferencev2.errors import CommandError
from openinferencev2.operate import FAILURE, RESTARTED_AT, REVISED, choose, kept, restore
from openinferencev2.status import detail, table
from rich.console import Console


def service(*conditions, generation=1, **status):
    """An InferenceService; each condition as (type, status, reason)."""
    entries = [
        {"type": kind, "status": value, "reason": reason, "message": f"why {reason}"}
        for kind, value, reason in conditions
    ]
    return {
        "metadata": {"name": "demo", "generation": generation},
        "spec": {"model": {"uri": "package://m/x.gguf"}},
        "status": {"observedGeneration": 1, "conditions": entries, **status},
    }


GOOD = service(("Ready", "True", "Serving"), currentRevision="a", updateRevision="a")


@pytest.mark.parametrize(
    ("found", "tone"),
    [
        (GOOD, "good"),
        (service(), "busy"),
        (service(("Ready", "False", "Starting")), "busy"),
        (service(("Ready", "False", "CrashLoop")), "bad"),
        (service(("Ready", "True", "Serving"), ("Available", "True", "ScaledToZero")), "asleep"),
    ],
)
def test_state_is_the_readers_first_question(found, tone):
    assert services.state(found).tone == tone


@pytest.mark.parametrize(
    ("found", "is_settled"),
    [
        (GOOD, True),
        (service(("Ready", "True", "Serving"), generation=2), False),
        (service(("Ready", "True", "Serving"), currentRevision="a", updateRevision="b"), False),
        (service(("Ready", "False", "Starting")), False),
        (service(("Ready", "False", "Complete")), True),  # scaled to none, as was asked for
    ],
)
def test_a_service_is_settled_when_the_present_spec_serves(found, is_settled):
    assert services.is_settled(found) is is_settled


def test_waiting_is_given_up_only_for_what_the_present_spec_did():
    failed = service(("Ready", "True", "Serving"), ("Progressing", "False", "RolledBack"))
    assert "RolledBack" in services.failure(failed)
    assert services.failure(failed | {"metadata": {"name": "demo", "generation": 2}}) == ""


def test_status_shows_the_remedy_beside_what_is_wrong():
    console = Console(width=200)
    with console.capture() as shown:
        console.print(detail(service(("Ready", "False", "OutOfMemory"))))
        console.print(table([service(("Ready", "False", "OutOfMemory"))]))
    assert "Raise `resources.limits.memory`" in shown.get()
    assert "▲ OutOfMemory" in shown.get()


def test_a_manifest_says_only_what_was_said():
    made = manifest("demo", "package://m/x.gguf", None, None, None)
    assert made["spec"] == {"model": {"uri": "package://m/x.gguf"}}
    made = manifest("demo", "package://m/x.gguf", 2, 1, 16)
    assert made["spec"]["resources"]["limits"] == {"nvidia.com/gpu": 1}


# Rollback.


def revision(name, number, fields=None, failure=None):
    annotations = {FAILURE: failure} if failure else {}
    labels = {"openinference.dev/revision": name}
    return {
        "metadata": {"labels": labels, "annotations": annotations},
        "revision": number,
        "data": {"fields": fields or {}},
    }


KEPT = [revision("a", 1), revision("b", 2, failure="crashed"), revision("c", 3)]


def test_rollback_goes_to_the_last_good_revision_before_the_wanted_one():
    assert choose(service(updateRevision="c"), KEPT, "") == KEPT[0]
    assert choose(service(updateRevision="b"), KEPT, "") == KEPT[2]


def test_revisions_that_statefulsets_keep_are_none_of_ours():
    """They carry the labels of the pod template; listing them once ended in a traceback."""
    foreign = revision("a", 1) | {"data": {"spec": {}}}
    assert kept([KEPT[2], foreign, KEPT[0]]) == [KEPT[0], KEPT[2]]


def test_a_revision_that_was_asked_for_is_taken_even_if_it_failed():
    assert choose(service(updateRevision="c"), KEPT, "b") == KEPT[1]


@pytest.mark.parametrize("wished", ["", "absent"])
def test_where_there_is_nothing_to_go_back_to_the_kept_ones_are_named(wished):
    with pytest.raises(CommandError, match="those kept: c"):
        choose(service(updateRevision="c"), KEPT[2:], wished)


values = st.dictionaries(st.sampled_from("xyz"), st.integers(), min_size=1)
field_sets = st.dictionaries(st.sampled_from(REVISED), values)


@given(field_sets, field_sets, st.booleans(), st.none() | st.text(min_size=1))
def test_restoring_changes_the_fields_of_the_revision_and_no_other(
    now, before, has_annotations, restarted_at
):
    found = {"metadata": {"name": "demo"}, "spec": {**now, "replicas": 3}}
    if has_annotations:
        found["metadata"]["annotations"] = {"other": "stays", RESTARTED_AT: "now"}
    fields = before | ({"restartedAt": restarted_at} if restarted_at else {})

    patched = jsonpatch.apply_patch(copy.deepcopy(found), restore(found, fields))

    assert patched["spec"] == {**before, "replicas": 3}
    annotations = patched["metadata"].get("annotations", {})
    assert annotations.get(RESTARTED_AT) == restarted_at
    assert annotations.get("other") == ("stays" if has_annotations else None)


# Doctor.


def deployment(ready=2, wanted=2):
    return {
        "metadata": {"name": "operator", "namespace": "system"},
        "spec": {"replicas": wanted},
        "status": {"readyReplicas": ready} if ready else {},
    }


def node(gpus=None, **labels):
    allocatable = {} if gpus is None else {"nvidia.com/gpu": str(gpus)}
    return {"metadata": {"name": "n1", "labels": labels}, "status": {"allocatable": allocatable}}


CRD = {"spec": {"versions": [{"name": "v1alpha1", "served": True}]}}
WELL = {
    "server_version": "v1.34.4",
    "crd": CRD,
    "permissions": {"read pods": True},
    "operators": [deployment()],
    "router": deployment(),
    "services": [GOOD],
    "nodes": [node(4)],
}
FAULTS = {
    "old Kubernetes": ({"server_version": "v1.24.0"}, "Kubernetes", "upgrade"),
    "no CRD": (
        {"crd": None, "services": None, "unread": {"crd": "not found"}},
        "API",
        "install the chart",
    ),
    "no permission": ({"permissions": {"read pods": False}}, "Permissions", "'edit'"),
    "no operator": ({"operators": []}, "Operator", "install the chart"),
    "operator at zero": ({"operators": [deployment(0, 0)]}, "Operator", "--replicas=2"),
    "operator down": ({"operators": [deployment(0)]}, "Operator", "describe"),
    "no router": ({"router": None}, "Router", "see Operator"),
    "router down": ({"router": deployment(0)}, "Router", "describe"),
    "no device plugin": (
        {"nodes": [node(None, **{"feature.node.kubernetes.io/pci-10de.present": "true"})]},
        "GPUs",
        "device plugin",
    ),
    "crashing engine": (
        {"services": [service(("Ready", "False", "CrashLoop"))]},
        "Service demo",
        "missing model",
    ),
}


def test_doctor_finds_nothing_where_all_is_well():
    assert {finding.level for finding in examine(Facts(**WELL))} == {"good"}


@pytest.mark.parametrize(("change", "subject", "remedy"), FAULTS.values(), ids=FAULTS.keys())
def test_doctor_finds_a_fault_and_its_remedy(change, subject, remedy):
    bad = [finding for finding in examine(Facts(**(WELL | change))) if finding.level == "bad"]
    assert [finding.subject for finding in bad] == [subject]
    assert remedy in bad[0].remedy


def test_doctor_doubts_a_scaler_that_has_lost_prometheus():
    found = service(("Ready", "True", "Serving"), ("ScalingActive", "True", "FallbackDemand"))
    doubts = [
        each for each in examine(Facts(**(WELL | {"services": [found]}))) if each.level == "busy"
    ]
    assert [doubt.message for doubt in doubts] == ["why FallbackDemand"]


def test_findings_are_plain_data():
    from dataclasses import asdict

    assert json.dumps([asdict(finding) for finding in examine(Facts(**WELL))])
