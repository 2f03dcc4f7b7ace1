"""What Prometheus Operator is told: targets that exist, and alerts that Prometheus can read."""

import shutil
import subprocess

import pytest
import yaml
from openinference_operator.manifests import router, services
from openinference_operator.manifests.common import signed
from openinference_operator.manifests.monitoring import build_monitoring
from openinference_operator.operations import Apply
from openinference_operator.plan import plan_monitoring
from openinference_operator.settings import Settings
from openinference_operator.spec import parse

ALL = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture
def service(raw_service):
    return parse(raw_service())


@pytest.fixture
def made(service):
    return {
        (each["kind"], each["metadata"]["name"]): each["spec"]
        for each in build_monitoring([service])
    }


@pytest.mark.parametrize(
    ("monitor", "target"),
    [("openinference-engines", "demo-groups"), ("openinference-router", "openinference-router")],
)
def test_each_monitor_finds_one_service_and_its_port(service, made, monitor, target):
    present = [
        services.build_client_service(service),
        services.build_groups_service(service),
        *router.build_router([service], Settings().router),
    ]
    spec = made["ServiceMonitor", monitor]
    port, wanted = spec["endpoints"][0]["port"], spec["selector"]["matchLabels"].items()
    found = [
        each["metadata"]["name"]
        for each in present
        if each["kind"] == "Service"
        and wanted <= each["metadata"]["labels"].items()
        and port in {entry["name"] for entry in each["spec"]["ports"]}
    ]
    assert found == [target]


def test_prometheus_reads_every_alert(made, tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH; it comes with Prometheus")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(made["PrometheusRule", "openinference-router"]))
    done = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 rules found" in done.stdout


def test_every_alert_says_for_whom_and_what_to_do(made):
    [group] = made["PrometheusRule", "openinference-router"]["groups"]
    for rule in group["rules"]:
        assert 'inference_namespace="team-a"' in rule["expr"]
        assert "$labels.inference_service" in rule["annotations"]["summary"]
        assert rule["annotations"]["description"].startswith("What to do: ")
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_only_kinds_that_exist_are_written(service):
    applied = [
        operation.manifest["kind"]
        for operation in plan_monitoring([service], {}, {"ServiceMonitor"})
    ]
    assert applied == ["ServiceMonitor", "ServiceMonitor"]
    assert plan_monitoring([service], {}, set()) == ()


def test_what_is_written_already_is_left_alone(service):
    live = {
        (each["kind"], each["metadata"]["name"]): signed(each)
        for each in build_monitoring([service])
    }
    assert plan_monitoring([service], live, ALL) == ()
    live["PrometheusRule", "openinference-router"]["spec"] = {"groups": []}
    [operation] = plan_monitoring([service], live, ALL)
    assert isinstance(operation, Apply)
    assert operation.exists
