"""What the chart renders: each value reaches its field, and some things hold for all values."""

import json

import pytest
import yaml
from openinference_operator.settings import Settings

from e2e.cluster.places import PROJECT

DIGEST = "sha256:" + "ab" * 32

FILES = sorted((PROJECT / "charts/openinference/ci").glob("*-values.yaml"))
VARIANTS = {
    path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) for path in FILES
}
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def rendered(request, render):
    """The objects of one variant of the values."""
    return render(request.param)


@pytest.fixture
def deployment(render):
    """Renders the operator's Deployment with some values."""

    def of(values):
        (found,) = [item for item in render(values) if item["kind"] == "Deployment"]
        return found

    return of


@pytest.fixture
def environment(deployment):
    """Renders the environment of the operator's container with some values."""

    def of(values):
        (container,) = deployment(values)["spec"]["template"]["spec"]["containers"]
        return {entry["name"]: entry.get("value") for entry in container["env"]}

    return of


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_chart_lints_without_a_warning(helm, chart, values):
    result = helm("lint", chart, "--strict", values=values)

    assert result.returncode == 0, result.stdout
    assert "[WARNING]" not in result.stdout


def test_every_object_carries_the_release(rendered):
    for item in rendered:
        labels = item["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "openinference"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"


def test_names_of_digits_stay_names(helm, chart):
    values = {"watchNamespace": "789", "operator": {"image": {"pullSecrets": ["456"]}}}
    result = helm("template", "123", chart, "--namespace", "0123", values=values)

    assert result.returncode == 0, result.stderr
    said = list(_scalars(yaml.safe_load_all(result.stdout)))
    assert {"123", "0123", "456", "789"} <= {each for each in said if isinstance(each, str)}
    assert not {123, 83, 456, 789} & {each for each in said if isinstance(each, int)}  # 0123 is 83


def test_every_namespaced_object_says_its_namespace(rendered):
    for item in rendered:
        has_namespace = "namespace" in item["metadata"]
        assert has_namespace == (item["kind"] not in CLUSTER_SCOPED), item["metadata"]["name"]


def test_every_container_meets_the_restricted_profile(rendered):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pods = [item["spec"] for item in rendered if item["kind"] == "Pod"]
    pods += [item["spec"]["template"]["spec"] for item in rendered if item["kind"] == "Deployment"]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert all({"name", "emptyDir"} == volume.keys() for volume in pod.get("volumes", []))
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context


def test_probes_and_scrapes_ask_a_port_that_exists_and_an_early_end_is_heard(rendered):
    (template,) = [item["spec"]["template"] for item in rendered if item["kind"] == "Deployment"]
    (container,) = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    assert container["livenessProbe"]["httpGet"] == {"path": "/health", "port": "http"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "http"}
    assert container["lifecycle"] == {"preStop": {"exec": {"command": ["sleep", "1"]}}}
    assert template["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(ports["http"]),
        "prometheus.io/path": "/metrics",
    }


def test_deployment_and_budget_select_the_same_pods(render):
    by_kind = {item["kind"]: item["spec"] for item in render({}) if "spec" in item}
    labels = by_kind["Deployment"]["template"]["metadata"]["labels"]

    assert by_kind["Deployment"]["selector"] == by_kind["PodDisruptionBudget"]["selector"]
    assert by_kind["Deployment"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(("replicas", "budgets"), [(1, 0), (2, 1), (3, 1)])
def test_budget_exists_only_where_a_second_pod_does(render, replicas, budgets):
    kinds = [item["kind"] for item in render({"operator": {"replicas": replicas}})]

    assert kinds.count("PodDisruptionBudget") == budgets


@pytest.mark.parametrize(
    ("common", "own", "expected"),
    [
        pytest.param({}, {}, "openinference/engine:0.1.0", id="the chart's appVersion"),
        pytest.param({"tag": "dev"}, {}, "openinference/engine:dev", id="one tag for all"),
        pytest.param(
            {"tag": "dev"}, {"tag": "cuda"}, "openinference/engine:cuda", id="own tag wins"
        ),
        pytest.param(
            {"registry": "mirror.example/cache"},
            {},
            "mirror.example/cache/openinference/engine:0.1.0",
            id="mirror",
        ),
        pytest.param(
            {"registry": "[fd00::1]:5000"},
            {},
            "[fd00::1]:5000/openinference/engine:0.1.0",
            id="an address of IPv6",
        ),
        pytest.param(
            {"tag": "dev"}, {"digest": DIGEST}, f"openinference/engine:dev@{DIGEST}", id="digest"
        ),
    ],
)
def test_image_is_put_together(environment, common, own, expected):
    values = {"image": common, "engine": {"image": own}}

    assert environment(values)["OPENINFERENCE_OPERATOR_ENGINE_IMAGE"] == expected


def test_operator_reads_what_the_values_say(environment, monkeypatch):
    """The environment is made of the names that the operator's settings have."""
    prefix = Settings.model_config["env_prefix"]
    everything = environment(VARIANTS["everything"])
    found = {name: value for name, value in everything.items() if name.startswith(prefix)}
    for name, value in found.items():
        monkeypatch.setenv(name, value or "from-the-pod")

    settings = Settings()

    assert {name.removeprefix(prefix).lower() for name in found} <= Settings.model_fields.keys()
    assert settings.watch_namespace == "default"
    assert settings.engine_image == "mirror.example/cache/team/engine:cuda"
    assert settings.router_image == "mirror.example/cache/openinference/operator:1.2.3"
    assert settings.router_replicas == 5
    assert settings.router_resources["requests"]["cpu"] == "2"
    assert settings.router_cluster_role == "openinference-router"
    assert settings.prometheus_url == "http://prometheus.monitoring.svc:9090"
    assert settings.engine.otlp_endpoint == "http://collector.monitoring.svc:4318"
    assert settings.router.otlp_endpoint == settings.engine.otlp_endpoint


def test_values_that_are_taken_away_are_empty(render, monkeypatch):
    """Null is how Helm takes a default away. The operator did not start with "null" for resources,
    and got the rights of one namespace where it watches all.
    """
    values = {
        "watchNamespace": None,
        "router": {"resources": None},
        "networkPolicy": {"scrapers": None},
    }
    objects = render(values)
    (deployment,) = [item for item in objects if item["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    for entry in container["env"]:
        monkeypatch.setenv(entry["name"], entry.get("value") or "")

    settings = Settings()

    assert (settings.router_resources, settings.scrapers) == ({}, [])
    assert settings.watch_namespace == ""
    assert ("ClusterRole", "openinference-operator") in {
        (item["kind"], item["metadata"]["name"]) for item in objects
    }


def test_values_reach_the_operators_pod(deployment):
    spec = deployment(VARIANTS["everything"])["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]

    assert spec["replicas"] == 3
    assert container["image"] == f"mirror.example/cache/openinference/operator:1.2.3@{DIGEST}"
    assert container["imagePullPolicy"] == "Always"
    assert container["resources"]["limits"] == {"cpu": 1, "memory": "1Gi"}
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["nodeSelector"] == {"role": "infra"}
    assert pod["affinity"] == {"nodeAffinity": {}}
    assert pod["tolerations"] == [{"key": "infra", "operator": "Exists", "effect": "NoSchedule"}]


def test_alerts_keep_their_own_templates_and_link_to_their_runbooks(render):
    """Helm's braces and those of Prometheus are the same; only Helm's may be filled in."""
    (rules,) = [item for item in render(VARIANTS["watched"]) if item["kind"] == "PrometheusRule"]
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]

    assert any(
        "{{ $labels.inference_service }}" in rule["annotations"]["summary"] for rule in alerts
    )
    for rule in alerts:
        page = f"https://docs.example/runbooks/{rule['alert']}"
        assert rule["annotations"]["runbook_url"] == page


def test_dashboards_are_json_that_grafanas_sidecar_finds(render):
    maps = [item for item in render(VARIANTS["watched"]) if item["kind"] == "ConfigMap"]

    assert len(maps) == 3
    for item in maps:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "1"
        (text,) = item["data"].values()
        assert json.loads(text)["panels"]


def _scalars(value):
    """Every scalar within an object, at any depth."""
    if isinstance(value, str | int | float | None):
        yield value
        return
    for each in value.values() if isinstance(value, dict) else value:
        yield from _scalars(each)
