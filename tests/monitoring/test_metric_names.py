"""No alert, panel, query or page asks for a metric that no component exports."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from openinference_engine.config import ServerConfig
from openinference_engine.server.metrics import Metrics as EngineMetrics
from openinference_operator import metrics as operator_metrics
from openinference_operator.manifests.monitoring import build_monitoring
from openinference_operator.spec import parse
from openinference_router.dashboard.prometheus import QUERIES
from openinference_router.metrics import Metrics as RouterMetrics
from openinference_router.service import Service
from openinference_router.wire import Routing
from prometheus_client import REGISTRY, generate_latest

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "charts/openinference/files/monitoring"
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
NAMES = re.compile(
    r"\b(?:openinference_(?:router|operator|requests|last|engine_steps|start)|vllm:)\w+"
)
PACKAGES = re.compile(r"openinference_(router|operator|engine)$")


class Heartbeat:
    age_seconds = 0.0
    num_steps = 0


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """Every series name that a scrape of operator, router and engine can show."""
    routing = Routing("demo", "m", 1, datetime(2026, 1, 1, tzinfo=UTC))
    service = Service(routing, lambda: 0.0, lambda: None)
    texts = [
        EngineMetrics(ServerConfig(), "m", Heartbeat()).render(),
        generate_latest(RouterMetrics("team-a", lambda: [service]).registry),
        generate_latest(REGISTRY),
        generate_latest(_Conditions()),
    ]
    assert operator_metrics.IS_LEADER
    return {
        name + suffix
        for text in texts
        for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", text.decode(), re.MULTILINE)
        for suffix in SUFFIXES.get(kind, ("",))
    }


class _Conditions:
    """A registry of the conditions alone, as the operator's process adds them to its own."""

    def collect(self):
        return operator_metrics.ConditionMetrics(list).collect()


def asked_in(text: str) -> set[str]:
    return set(NAMES.findall(text))


def expressions_of_dashboards() -> str:
    panels = [
        panel
        for path in (MONITORING / "dashboards").glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
    ]
    return "\n".join(target["expr"] for panel in panels for target in panel["targets"])


def operators_alerts() -> str:
    metadata = {"name": "demo", "namespace": "team-a", "uid": "u", "generation": 1}
    metadata["creationTimestamp"] = "2026-01-01T00:00:00Z"
    raw = {"metadata": metadata, "spec": {"model": {"uri": "package://m/x.gguf"}}}
    return json.dumps(build_monitoring([parse(raw)])[-1])


SOURCES = {
    "alerts of the chart": lambda: (MONITORING / "alerts.yaml").read_text(),
    "alerts of the operator": operators_alerts,
    "dashboards of Grafana": expressions_of_dashboards,
    "history of the dashboard": lambda: "\n".join(QUERIES.values()),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_only_exported_metrics_are_asked_for(exported, source):
    asked = asked_in(source())
    assert asked, "nothing was found to check"
    assert asked - exported == set()


def test_a_metric_that_nobody_exports_would_be_noticed(exported):
    assert asked_in("rate(openinference_router_absent_total[5m])") - exported
