"""Who may reach engines and routers: the policies, judged as a network plugin would judge them."""

import pytest
from openinference_operator.manifests import engine, router
from openinference_operator.manifests.common import signed
from openinference_operator.manifests.network import build_network_policies
from openinference_operator.operations import Delete
from openinference_operator.plan import plan_namespace
from openinference_operator.settings import Settings
from openinference_operator.spec import parse

SYSTEM = "openinference-system"
ROUTERS = {"app.kubernetes.io/component": "router"}
PROMETHEUS = {"app.kubernetes.io/name": "prometheus"}


@pytest.fixture
def service(raw_service):
    return parse(raw_service())


@pytest.fixture
def pods(service):
    """Labels and named ports of the pods of the namespace team-a, by component."""
    settings = Settings(namespace=SYSTEM)
    deployment = next(
        each
        for each in router.build_router([service], settings.router)
        if each["kind"] == "Deployment"
    )
    templates = {
        "engine": engine.build_pod_template(service, "engine:1"),
        "router": deployment["spec"]["template"],
    }
    return {
        name: (
            template["metadata"]["labels"],
            {port["name"] for port in template["spec"]["containers"][0]["ports"]},
        )
        for name, template in templates.items()
    }


def admits(policies, target, source, port):
    """Whether pods of the namespace team-a take a connection; without a policy all do."""
    labels, ports = target
    applying = [each["spec"] for each in policies if holds(each["spec"]["podSelector"], labels)]
    rules = [rule for spec in applying for rule in spec["ingress"]]
    return not applying or any(
        port in {each["port"] for each in rule["ports"]} & ports
        and ("from" not in rule or any(matches(peer, *source) for peer in rule["from"]))
        for rule in rules
    )


def matches(peer, namespace, labels):
    if "namespaceSelector" not in peer:
        return namespace == "team-a" and holds(peer["podSelector"], labels)
    name = {"kubernetes.io/metadata.name": namespace}
    return holds(peer["namespaceSelector"], name) and holds(peer["podSelector"], labels)


def holds(selector, labels):
    return selector.get("matchLabels", {}).items() <= labels.items()


OPERATOR = (
    SYSTEM,
    {"app.kubernetes.io/name": "openinference", "app.kubernetes.io/component": "operator"},
)
SCRAPER = ("monitoring", PROMETHEUS)
STRANGER = ("team-a", {"app": "curious"})
IMPOSTOR = ("team-b", OPERATOR[1])


@pytest.mark.parametrize(
    ("source", "engine_http", "router_internal"),
    [
        ("a router of the namespace", True, False),
        (OPERATOR, True, True),
        (SCRAPER, True, True),
        (STRANGER, False, False),
        (IMPOSTOR, False, False),
    ],
    ids=["router", "operator", "Prometheus", "any other pod", "an operator elsewhere"],
)
def test_engines_and_state_are_reached_by_who_needs_them(
    service, pods, source, engine_http, router_internal
):
    if source == "a router of the namespace":
        source = ("team-a", pods["router"][0])
    policies = build_network_policies([service], Settings(namespace=SYSTEM).network)
    assert admits(policies, pods["engine"], source, "http") is engine_http
    assert admits(policies, pods["router"], source, "internal") is router_internal


@pytest.mark.parametrize("port", ["http", "https"])
def test_everybody_may_ask_a_router(service, pods, port):
    policies = build_network_policies([service], Settings(namespace=SYSTEM).network)
    assert admits(policies, pods["router"], STRANGER, port)


def test_policies_can_be_left_out(service):
    assert build_network_policies([service], Settings(network_policies=False).network) == []


def deleted(service, settings, *live):
    live = {("NetworkPolicy", each["metadata"]["name"]): each for each in live}
    operations = plan_namespace([service], live, settings.router, settings.network)
    return {each.reference.name for each in operations if isinstance(each, Delete)}


def written(manifest, **metadata):
    """A policy as it lies in the cluster."""
    present = {"uid": "uid-of-policy", "resourceVersion": "1"} | metadata
    return manifest | {"metadata": manifest["metadata"] | present}


def test_policies_that_are_left_out_later_are_deleted_and_no_others(service):
    enabled, disabled = Settings(namespace=SYSTEM), Settings(network_policies=False)
    rendered = build_network_policies([service], enabled.network)
    ours = [written(signed(each)) for each in rendered]
    going = [written(signed(each), deletionTimestamp="2026-01-01T00:00:00Z") for each in rendered]
    theirs = written({"metadata": {"name": "deny-all", "namespace": "team-a"}})
    assert deleted(service, enabled, *ours, theirs) == set()
    assert deleted(service, disabled, *going, theirs) == set()
    assert deleted(service, disabled, *ours, theirs) == {
        "openinference-engines",
        "openinference-router",
    }


def test_ranks_are_reached_by_their_own_group_alone(make_world):
    world = make_world(replicas=2, parallelism={"pipeline": 2})
    world.settle()
    policies = {name: obj for (kind, name), obj in world.objects.items() if kind == "NetworkPolicy"}
    assert policies.keys() == world.groups.keys()
    for name, policy in policies.items():
        pods = {"podSelector": {"matchLabels": {"openinference.dev/group": name}}}
        assert policy["spec"] == pods | {"policyTypes": ["Ingress"], "ingress": [{"from": [pods]}]}
        [owner] = policy["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("StatefulSet", name)


def test_a_policy_of_a_group_that_is_going_already_is_not_deleted_again(make_world):
    world = make_world(parallelism={"pipeline": 2})
    world.settle()
    [group] = world.groups
    assert removed(world) == {group}
    policy = world.objects["NetworkPolicy", group]["metadata"]
    policy |= {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    assert removed(world) == set()


def removed(world):
    """What is deleted where policies are switched off."""
    operations = world.plan(is_isolated=False).operations
    return {each.reference.name for each in operations if isinstance(each, Delete)}
