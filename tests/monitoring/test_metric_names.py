"""No alert, panel, query or page asks for a metric that no component exports."""

import re
from datetime import UTC, datetime

import pytest
from openinference_engine.config import ServerConfig
from openinference_engine.ranks.local import RankState
from openinference_engine.ranks.metrics import RankMetrics
from openinference_engine.server.series import Series
from openinference_operator import metrics as operator_metrics
from openinference_router.metrics import Metrics as RouterMetrics
from openinference_router.service import Service
from openinference_router.wire import Routing
from prometheus_client import REGISTRY

from docs.expressions import NAMES, expressions

SOURCES = expressions()
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
SCRAPED = {"le", "pod"}  # of histograms, and what Prometheus adds


class Heartbeat:
    age_seconds = 0.0
    num_steps = 0


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Every series name that a scrape of operator, router and engine can show, with its labels."""
    routing = Routing("demo", "m", 1, datetime(2026, 1, 1, tzinfo=UTC))
    service = Service(routing, lambda: 0.0, lambda: None)
    metadata = {"namespace": "team-a", "name": "demo"}
    entry = {"type": "Ready", "status": "True", "reason": "Serving"}
    declared = {"metadata": metadata, "status": {"conditions": [entry]}}
    collectors = [
        *_collectors(Series(ServerConfig(), "m", Heartbeat()).registry),
        RankMetrics(ServerConfig(), lambda: [RankState(1, True, 1)]),
        *_collectors(RouterMetrics("team-a", lambda: [service]).registry),
        *_collectors(REGISTRY),
        operator_metrics.ConditionMetrics(lambda: [declared]),
    ]
    return {
        family.name + suffix: _labels(collector, family) | SCRAPED
        for collector in collectors
        for family in collector.collect()
        for suffix in SUFFIXES.get(family.type, ("",))
    }


def _collectors(registry):
    return list(registry._collector_to_names)


def _labels(collector, family) -> set[str]:
    """Declared, or of a sample where a collector makes families by itself."""
    sampled = {label for sample in family.samples for label in sample.labels}
    return sampled | set(getattr(collector, "_labelnames", ()))


def asked_in(text: str) -> set[str]:
    return set(NAMES.findall(text))


@pytest.mark.parametrize("source", SOURCES)
def test_only_exported_metrics_are_asked_for(exported, source):
    asked = asked_in("\n".join(SOURCES[source]))
    assert asked, "nothing was found to check"
    known = set(exported)
    if source == "documentation":  # pages name a histogram as a whole
        known |= {name.removesuffix("_count") for name in exported}
    assert asked - known == set()


@pytest.mark.parametrize("source", SOURCES)
def test_metrics_are_selected_by_labels_that_they_have(exported, source):
    """An alert once asked a counter for a label that it did not have, and so could not fire."""
    assert foreign_labels(exported, "\n".join(SOURCES[source])) == []


@pytest.mark.parametrize(
    "expression",
    [
        "rate(openinference_router_absent_total[5m])",
        'openinference_router_in_flight{absent="x"}',
        "sum by (absent) (openinference_router_in_flight)",
    ],
)
def test_what_nobody_exports_would_be_noticed(exported, expression):
    assert asked_in(expression) - exported.keys() or foreign_labels(exported, expression)


def foreign_labels(exported, text: str) -> list[str]:
    """Selectors and groupings by labels that the metric, or all of its line's, lack."""
    found = []
    for line in text.replace("\\", "").splitlines():
        names = asked_in(line) & exported.keys()
        known = set().union(*(exported[name] for name in names)) if names else set()
        for labels in re.findall(r"by \(([^)]*)\) *\((?:rate|sum|max|openinf|vllm)", line):
            found += [f"by {x}" for x in re.split(r", *", labels) if names and x not in known]
        for name, selector in re.findall(r"([a-z_:]+)\{([^{}]*)\}", line):
            asked = set(re.findall(r"(\w+) *(?:=~|!~|!=|=)", selector))
            found += [f"{name}{{{x}}}" for x in asked if name in names and x not in exported[name]]
    return found
