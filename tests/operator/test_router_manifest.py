"""The router's objects: how it is reached, replaced, drained and owned."""

import pytest
from openinference_operator import names
from openinference_operator.manifests import router, services
from openinference_operator.spec import parse

from tests.operator.test_manifests import ROUTER, SPEC, routers


@pytest.fixture
def service(raw_service):
    return parse(raw_service(**SPEC))


def test_clients_reach_the_routers(service):
    made = services.build_client_service(service)
    labels = routers(service)["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert made["metadata"]["name"] == "demo"
    assert made["spec"]["selector"].items() <= labels.items()
    assert made["spec"]["ports"][0]["port"] == 80


def test_the_router_is_replaced_without_a_gap(service):
    spec = routers(service)["Deployment"]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["replicas"] == 2
    assert spec["template"]["spec"]["serviceAccountName"] == names.ROUTER


def test_the_router_knows_where_its_dashboard_finds_history(service):
    (container,) = routers(service)["Deployment"]["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["OPENINFERENCE_ROUTER_PROMETHEUS_URL"] == "http://prometheus:9090"


def test_the_router_drains_as_long_as_its_most_patient_service(raw_service, service):
    patient = parse(raw_service(name="patient", rollout={"drainTimeout": "1h"}))
    made = router.build_router([service, patient], ROUTER)[-1]
    assert made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 3630


def test_the_router_goes_with_the_last_service(raw_service, service):
    other = parse(raw_service(name="other"))
    for made in router.build_router([service, other], ROUTER):
        owners = made["metadata"]["ownerReferences"]
        assert {owner["name"] for owner in owners} == {"demo", "other"}
        assert not any(owner.get("controller") for owner in owners)
