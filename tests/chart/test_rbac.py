"""Permissions: verb by verb, and no further than the part needs."""

import pytest

READ = {"get", "list", "watch"}


def rules_of(objects, kind, name):
    """Each (group, resource, resource name or None) of a role with its verbs."""
    (role,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    granted = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for resource_name in rule.get("resourceNames", [None]):
                    verbs = granted.setdefault((group, resource, resource_name), set())
                    verbs.update(rule["verbs"])
    return granted


@pytest.fixture(scope="session")
def cluster_wide(render):
    return render({})


@pytest.fixture(scope="session")
def namespaced(render):
    return render({"watchNamespace": "team-a"})


@pytest.mark.parametrize("values", [{}, {"watchNamespace": "team-a"}], ids=["cluster", "namespace"])
def test_no_rule_has_a_wildcard(render, values):
    roles = [item for item in render(values) if item["kind"] in {"Role", "ClusterRole"}]

    assert roles
    for rule in (rule for role in roles for rule in role["rules"]):
        assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]


def test_operator_hands_out_the_routers_role_only(cluster_wide):
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-operator")

    assert {key: verbs for key, verbs in granted.items() if verbs & {"bind", "escalate"}} == {
        ("rbac.authorization.k8s.io", "clusterroles", "openinference-router"): {"bind"}
    }


def test_operator_touches_no_secret_but_its_token(cluster_wide):
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-operator")

    assert {key: verbs for key, verbs in granted.items() if key[1] == "secrets"} == {
        ("", "secrets", None): {"create"},
        ("", "secrets", "openinference-token"): {"get", "patch", "delete"},
    }


def test_operator_deletes_what_it_ends_and_what_services_own_together(cluster_wide):
    """The second service of a namespace was refused on OpenShift, where to change the owners of an
    object takes the right to delete it: the token and the monitors have several.
    """
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-operator")

    assert {key for key, verbs in granted.items() if "delete" in verbs} == {
        ("apps", "statefulsets", None),
        ("apps", "controllerrevisions", None),
        ("batch", "jobs", None),
        ("", "pods", None),
        # Owned together, as openinference_operator.manifests.common.shared_child makes them.
        ("apps", "deployments", None),
        ("", "services", None),
        ("", "serviceaccounts", None),
        ("", "secrets", "openinference-token"),
        ("policy", "poddisruptionbudgets", None),
        ("networking.k8s.io", "networkpolicies", None),
        ("rbac.authorization.k8s.io", "rolebindings", None),
        ("monitoring.coreos.com", "servicemonitors", None),
        ("monitoring.coreos.com", "prometheusrules", None),
    }


def test_operator_never_writes_a_spec(cluster_wide):
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-operator")

    assert granted["openinference.dev", "inferenceservices", None] == READ
    assert granted["openinference.dev", "inferenceservices/status", None] == {"get", "patch"}


def test_router_only_reads_what_it_serves_by_and_what_its_dashboard_shows(cluster_wide):
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-router")

    assert granted == {
        ("", "configmaps", None): READ,
        ("", "events", None): READ,
        ("openinference.dev", "inferenceservices", None): READ,
        ("", "secrets", "openinference-keys"): {"get"},
        ("", "secrets", "openinference-tls"): {"get"},
    }


def test_operator_is_told_the_role_that_it_may_bind(cluster_wide):
    (deployment,) = [item for item in cluster_wide if item["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}

    assert environment["OPENINFERENCE_OPERATOR_ROUTER_CLUSTER_ROLE"] == "openinference-router"


def test_permissions_end_at_the_watched_namespace(namespaced):
    bindings = [item for item in namespaced if item["kind"].endswith("RoleBinding")]

    assert {(item["kind"], item["metadata"].get("namespace")) for item in bindings} == {
        ("RoleBinding", "team-a"),
        ("RoleBinding", "openinference-system"),
    }


def test_namespaced_operator_has_no_right_outside_a_namespace(namespaced, cluster_wide):
    whole = rules_of(cluster_wide, "ClusterRole", "openinference-operator")
    part = rules_of(namespaced, "Role", "openinference-operator")

    assert whole.keys() - part.keys() == {
        ("apiextensions.k8s.io", "customresourcedefinitions", None),
        ("", "nodes", None),
    }
    assert all(whole[key] == verbs for key, verbs in part.items())


def test_lease_is_held_in_the_operators_own_namespace(namespaced):
    granted = rules_of(namespaced, "Role", "openinference-operator-lease")

    assert granted == {
        ("coordination.k8s.io", "leases", None): {"create"},
        ("coordination.k8s.io", "leases", "openinference-operator"): {"get", "update"},
    }


def test_every_binding_names_a_role_and_an_account_that_exist(namespaced, cluster_wide):
    for objects in (namespaced, cluster_wide):
        names = {(item["kind"], item["metadata"]["name"]) for item in objects}
        for binding in (item for item in objects if item["kind"].endswith("RoleBinding")):
            assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in names
            assert {(who["kind"], who["name"]) for who in binding["subjects"]} <= names


def test_editors_of_a_namespace_edit_its_services(cluster_wide):
    granted = rules_of(cluster_wide, "ClusterRole", "openinference-edit")
    (role,) = [item for item in cluster_wide if item["metadata"]["name"] == "openinference-edit"]

    assert role["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert {"create", "update", "patch", "delete"} <= granted[
        "openinference.dev", "inferenceservices", None
    ]
