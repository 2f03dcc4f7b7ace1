"""The objects that every local cluster starts with."""

from ipaddress import IPv4Network

import pytest
import yaml

from e2e.cluster import manifests
from e2e.cluster.addresses import AddressPlan

PLAN = AddressPlan(IPv4Network("10.244.0.0/16"))


def objects(manifest):
    return list(yaml.safe_load_all(manifest))


def of_kind(manifest, kind, name):
    (found,) = [
        each
        for each in objects(manifest)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


@pytest.fixture
def prometheus():
    return manifests.prometheus("prometheus:x", "python:x", first_node="node-1")


def test_the_name_server_answers_where_kubelets_send_their_pods():
    service = of_kind(manifests.coredns(PLAN), "Service", "kube-dns")

    assert service["spec"]["clusterIP"] == str(PLAN.dns_service)


def test_prometheus_may_only_list_and_watch_pods(prometheus):
    role = of_kind(prometheus, "ClusterRole", "openinference-prometheus")

    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


def test_every_container_fits_restricted_pod_security(prometheus):
    pod = of_kind(prometheus, "Deployment", "prometheus")["spec"]["template"]["spec"]
    contexts = [container["securityContext"] for container in pod["containers"]]

    assert pod["securityContext"]["runAsNonRoot"]
    assert all(context["capabilities"] == {"drop": ["ALL"]} for context in contexts)
    assert not any(context["allowPrivilegeEscalation"] for context in contexts)


def test_the_images_are_the_provider_s(prometheus):
    pod = of_kind(prometheus, "Deployment", "prometheus")["spec"]["template"]["spec"]

    assert [each["image"] for each in pod["containers"]] == ["prometheus:x", "python:x"]


def test_the_sidecar_travels_whole(prometheus):
    shipped = of_kind(prometheus, "ConfigMap", "scrape-targets")["data"]["scrape_targets.py"]

    assert shipped == (manifests.places.SOURCES / "scrape_targets.py").read_text()
    compile(shipped, "scrape_targets.py", "exec")


def test_a_changed_sidecar_restarts_prometheus(prometheus, tmp_path, monkeypatch):
    sources = tmp_path / "cluster"
    (sources / "manifests").mkdir(parents=True)
    original = manifests.places.SOURCES / "manifests" / "prometheus.yaml"
    (sources / "manifests" / "prometheus.yaml").write_text(original.read_text())
    (sources / "scrape_targets.py").write_text("changed = True\n")
    monkeypatch.setattr(manifests.places, "SOURCES", sources)

    changed = manifests.prometheus("prometheus:x", "python:x", first_node="node-1")

    assert template_of(changed) != template_of(prometheus)


def template_of(manifest):
    return of_kind(manifest, "Deployment", "prometheus")["spec"]["template"]
