"""Which fields make a revision, and what it is named by."""

import pytest
from openinference_operator.revision import revised_fields, revision_of
from openinference_operator.spec import parse

from tests.operator.test_spec import FULL

SAME_REVISION = {
    "replicas": {"replicas": 5},
    "autoscaling": {"autoscaling": FULL["autoscaling"]},
    "rollout": {"rollout": {"drainTimeout": "1s"}},
    "router": {"router": FULL["router"]},
    "suspend": {"suspend": True},
    "failurePolicy": {"failurePolicy": {"restartBudget": {"count": 1}}},
    "empty objects": {"engine": {}, "resources": {"requests": {}}, "podTemplate": {"env": []}},
}


@pytest.mark.parametrize("spec", SAME_REVISION.values(), ids=SAME_REVISION.keys())
def test_what_needs_no_new_pods_makes_no_revision(raw_service, spec):
    assert revision_of(parse(raw_service(**spec))) == revision_of(parse(raw_service()))


NEW_REVISION = {
    "model": {"model": {"uri": "package://models/other.gguf"}},
    "name": {"model": {"uri": "package://models/tiny.gguf", "name": "other"}},
    "engine": {"engine": {"maxSequences": 3}},
    "resources": {"resources": {"limits": {"cpu": "1"}}},
    "podTemplate": {"podTemplate": {"nodeSelector": {"a": "b"}}},
    "restartedAt": {"annotations": {"openinference.dev/restartedAt": "now"}},
}


@pytest.mark.parametrize("spec", NEW_REVISION.values(), ids=NEW_REVISION.keys())
def test_what_needs_new_pods_makes_a_revision(raw_service, spec):
    assert revision_of(parse(raw_service(**spec))) != revision_of(parse(raw_service()))


def test_a_revision_is_eight_lower_case_hex_digits_and_stable(raw_service):
    """The value is part of the contract: another one would roll every fleet at an upgrade."""
    assert revision_of(parse(raw_service())) == "4affb034"


def test_a_revision_holds_no_defaults(raw_service):
    assert revised_fields(parse(raw_service())) == {"model": {"uri": "package://models/tiny.gguf"}}
