"""What routers are told, manifests that are signed, and the plan that prints them all."""

import json

import pytest
import yaml
from openinference_operator import names
from openinference_operator.manifests import routing, services
from openinference_operator.manifests.common import signed
from openinference_operator.preview import preview
from openinference_operator.settings import Settings
from openinference_operator.spec import parse

from tests.operator.test_manifests import SPEC


@pytest.fixture
def service(raw_service):
    return parse(raw_service(**SPEC))


def test_routing_is_what_the_wire_says(service):
    routes = [routing.Route("demo-1a2b3c4d-0", "1a2b3c4d", "Active")]
    made = routing.build_routing_configmap(service, routes, None)
    assert made["metadata"]["name"] == "demo-routing"
    assert made["metadata"]["labels"]["openinference.dev/routing"] == "true"
    assert json.loads(made["data"]["routing.json"]) == {
        "service": "demo",
        "model": "tiny",
        "generation": 1,
        "createdAt": "2026-01-01T00:00:00Z",
        "groups": [
            {
                "id": "demo-1a2b3c4d-0",
                "revision": "1a2b3c4d",
                "address": "http://demo-1a2b3c4d-0-0.demo-groups.team-a.svc:8000",
                "weight": 100,
                "state": "Active",
            }
        ],
        "queue": {
            "maxRequests": 1000,
            "contendedTimeoutSeconds": 60,
            "coldStartTimeoutSeconds": 600,
        },
        "balancing": {"algorithm": "PrefixAware", "sessionHeader": ""},
        "drainTimeoutSeconds": 120,
    }


def test_routing_says_how_to_choose(raw_service):
    affinity = {"algorithm": "LeastLoad", "sessionAffinity": {"header": "x-session-id"}}
    service = parse(raw_service(**SPEC, router=affinity))
    made = routing.build_routing_configmap(service, [], None)
    balancing = json.loads(made["data"]["routing.json"])["balancing"]
    assert balancing == {"algorithm": "LeastLoad", "sessionHeader": "x-session-id"}


@pytest.mark.parametrize("text", ["", "no json", "[]"])
def test_a_routing_that_cannot_be_read_is_written_anew(service, text):
    live = {"data": {"routing.json": text}}
    made = routing.build_routing_configmap(service, [], live)
    assert json.loads(made["data"]["routing.json"])["generation"] == 1


def test_a_manifest_without_a_field_is_another_one(service):
    before = services.build_client_service(service)
    after = {key: value for key, value in before.items() if key != "spec"}
    hashes = [
        signed(made)["metadata"]["annotations"][names.ANNOTATION_APPLIED]
        for made in (before, after)
    ]
    assert hashes[0] != hashes[1]


def test_plan_prints_every_object_without_a_cluster(raw_service, tmp_path):
    path = tmp_path / "infsvc.yaml"
    path.write_text(yaml.safe_dump(raw_service(**SPEC)))
    with (tmp_path / "out.yaml").open("w") as out:
        assert preview(path, Settings(), out) == 0
    printed = list(yaml.safe_load_all((tmp_path / "out.yaml").read_text()))
    assert sorted(made["kind"] for made in printed) == [
        "ConfigMap",
        "ControllerRevision",
        "Deployment",
        "NetworkPolicy",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodDisruptionBudget",
        "RoleBinding",
        "Service",
        "Service",
        "Service",
        "ServiceAccount",
        "StatefulSet",
    ]


def test_plan_names_what_is_wrong(raw_service, tmp_path):
    path = tmp_path / "infsvc.yaml"
    path.write_text(yaml.safe_dump(raw_service(model={"uri": "ftp://x"})))
    with (tmp_path / "out").open("w") as out:
        assert preview(path, Settings(), out) == 1
    assert "spec.model.uri: is 'ftp://x'" in (tmp_path / "out").read_text()
