"""The objects that are made: names and flags of the wire, and what pod security demands."""

from dataclasses import replace

import pytest
from openinference_operator import names
from openinference_operator.manifests import engine, router, services
from openinference_operator.settings import RouterSettings
from openinference_operator.spec import parse

SPEC = {
    "model": {"uri": "package://models/tiny.gguf", "name": "tiny"},
    "engine": {"maxModelLen": 2048, "maxSequences": 4, "maxWaiting": 0},
    "resources": {"requests": {"cpu": "1"}, "limits": {"nvidia.com/gpu": 2}},
    "rollout": {"drainTimeout": "2m"},
    "podTemplate": {
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "env": [{"name": "LOG", "value": "debug"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "weights"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    },
}


@pytest.fixture
def service(raw_service):
    return parse(raw_service(**SPEC))


@pytest.fixture
def template(service):
    return engine.build_pod_template(service, "engine:1")


@pytest.fixture
def container(template):
    return template["spec"]["containers"][0]


ROUTER = RouterSettings(
    image="engine:1",
    replicas=2,
    resources={"limits": {"cpu": "1"}},
    cluster_role="router-role",
    prometheus_url="http://prometheus:9090",
)


def routers(service):
    made = router.build_router([service], ROUTER)
    return {manifest["kind"]: manifest for manifest in made}


def pod_specs(service, template):
    return [template["spec"], routers(service)["Deployment"]["spec"]["template"]["spec"]]


def test_pods_satisfy_the_restricted_pod_security_standard(service, template):
    for spec in pod_specs(service, template):
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for made in spec["containers"]:
            assert made["securityContext"]["allowPrivilegeEscalation"] is False
            assert made["securityContext"]["readOnlyRootFilesystem"] is True
            assert made["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}


def test_pods_end_only_after_the_drain(service, template):
    for spec in pod_specs(service, template):
        assert spec["terminationGracePeriodSeconds"] == 150


def test_a_pod_deleted_as_it_starts_has_a_handler_when_the_signal_comes(service, template):
    for spec in pod_specs(service, template):
        assert spec["containers"][0]["lifecycle"] == {
            "preStop": {"exec": {"command": ["sleep", "1"]}}
        }


def test_images_are_not_pulled_again(service, template):
    for spec in pod_specs(service, template):
        assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"


def test_engine_command_and_flags(container):
    assert container["command"] == [
        "python3",
        "-m",
        "openinference_engine",
        "serve",
        "package://models/tiny.gguf",
    ]
    assert set(container["args"]) == {
        "--port=8000",
        "--served-model-name=tiny",
        "--max-model-len=2048",
        "--max-sequences=4",
        "--max-waiting=0",
        "--dtype=auto",
        "--drain-timeout-seconds=120",
        "--token-file=/var/run/openinference/token",
        "--device=cuda",  # without it a pod that reserves GPUs would compute on its CPU
    }


def test_what_is_not_set_is_left_to_the_engine(raw_service):
    template = engine.build_pod_template(parse(raw_service()), "engine:1")
    args = template["spec"]["containers"][0]["args"]
    assert not any(
        name in flag
        for flag in args
        for name in ("max-model-len", "device", "kv-cache", "activations")
    )


def test_types_of_cache_and_activations_are_flags_where_they_are_set(raw_service):
    """Left out, an engine image of before those flags still starts."""
    raw = raw_service(engine={"kvCacheDtype": "int8-int4", "activations": "fp8"})
    args = engine.build_pod_template(parse(raw), "engine:1")["spec"]["containers"][0]["args"]
    assert {"--kv-cache-dtype=int8-int4", "--activations=fp8"} <= set(args)


def test_engine_environment(container):
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["OPENINFERENCE_NAMESPACE"] == "team-a"
    assert environment["OPENINFERENCE_SERVICE"] == "demo"
    assert environment["LOG"] == "debug"
    group = next(entry for entry in container["env"] if entry["name"] == "OPENINFERENCE_GROUP")
    path = group["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['openinference.dev/group']"


def test_where_spans_go_the_user_has_the_last_word(raw_service):
    theirs = {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://theirs:4318"}
    service = parse(raw_service(podTemplate={"env": [theirs]}))
    template = engine.build_pod_template(service, "engine:1", otlp_endpoint="http://ours:4318")
    told = [e for e in template["spec"]["containers"][0]["env"] if e["name"] == theirs["name"]]
    assert told == [theirs]


def test_engine_probes(container):
    paths = {
        name: container[name]["httpGet"]["path"]
        for name in ("startupProbe", "readinessProbe", "livenessProbe")
    }
    assert paths == {
        "startupProbe": "/ready",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }


def test_what_the_user_asks_of_the_cluster_is_passed_on(template, container):
    assert container["resources"] == {
        "requests": {"cpu": "1"},
        "limits": {"nvidia.com/gpu": "2"},
    }
    assert template["spec"]["nodeSelector"] == {"gpu": "h100"}
    assert {"key": "gpu", "operator": "Exists"} in template["spec"]["tolerations"]


def test_volumes_of_the_user_stand_beside_ours(template, container):
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": "weights"}
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in container["volumeMounts"]
    assert {"scratch", "shm", "token"} < volumes.keys()


def test_a_lost_node_is_left_after_thirty_seconds(template):
    seconds = {
        toleration["key"]: toleration["tolerationSeconds"]
        for toleration in template["spec"]["tolerations"]
        if "tolerationSeconds" in toleration
    }
    assert seconds == {
        "node.kubernetes.io/not-ready": 30,
        "node.kubernetes.io/unreachable": 30,
    }


def test_a_claim_is_mounted_read_only_and_named_as_a_file(raw_service):
    service = parse(raw_service(model={"uri": "pvc://weights/llama/model.gguf"}))
    spec = engine.build_pod_template(service, "engine:1")["spec"]
    assert spec["containers"][0]["command"][-1] == "file:///models/llama/model.gguf"
    claim = next(volume for volume in spec["volumes"] if volume["name"] == "model")
    assert claim["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    mounts = spec["containers"][0]["volumeMounts"]
    assert {"name": "model", "mountPath": "/models", "readOnly": True} in mounts


def test_a_group_is_a_statefulset_of_one_that_only_the_operator_replaces(service, template):
    group = engine.build_statefulset(service, "1a2b3c4d", "demo-1a2b3c4d-0", template)
    assert group["spec"]["replicas"] == 1
    assert group["spec"]["podManagementPolicy"] == "Parallel"
    assert group["spec"]["updateStrategy"] == {"type": "OnDelete"}
    assert group["spec"]["serviceName"] == "demo-groups"
    selector = group["spec"]["selector"]["matchLabels"]
    labels = group["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert labels[names.LABEL_REVISION] == "1a2b3c4d"
    assert labels[names.LABEL_ROLE] == "leader"


def test_pods_are_scraped(service, template):
    for made, port in (
        (template, "8000"),
        (routers(service)["Deployment"]["spec"]["template"], "8081"),
    ):
        assert made["metadata"]["annotations"] == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": port,
            "prometheus.io/path": "/metrics",
        }


def test_groups_have_names_before_they_are_ready(service):
    made = services.build_groups_service(service)
    assert made["metadata"]["name"] == "demo-groups"
    assert made["spec"]["clusterIP"] == "None"
    assert made["spec"]["publishNotReadyAddresses"] is True


def test_disruption_budgets_never_hold_a_broken_pod(service):
    for made in (
        engine.build_engine_disruption_budget(service),
        routers(service)["PodDisruptionBudget"],
    ):
        assert made["spec"]["maxUnavailable"] == 1
        assert made["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_engines_and_routers_are_told_where_spans_go(service):
    endpoint, name = "http://collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT"
    traced = engine.build_pod_template(service, "engine:1", otlp_endpoint=endpoint)["spec"]
    *_, deployment = router.build_router([service], replace(ROUTER, otlp_endpoint=endpoint))
    for pod in (traced, deployment["spec"]["template"]["spec"]):
        assert {"name": name, "value": endpoint} in pod["containers"][0]["env"]
    untraced = engine.build_pod_template(service, "engine:1")["spec"]
    assert name not in str((untraced, routers(service)))


def test_children_of_one_service_go_with_it(service, template):
    for made in (
        services.build_client_service(service),
        engine.build_statefulset(service, "1a2b3c4d", "demo-1a2b3c4d-0", template),
        engine.build_controller_revision(service, "1a2b3c4d", 1, {"template": template}),
    ):
        assert made["metadata"]["ownerReferences"][0]["controller"] is True
