"""Every expression that the product gives to a Prometheus, by where it stands.

Tests take them to what the components export, and to a live Prometheus. Variables of Grafana and
of templates are filled in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import yaml
from openinference_operator.manifests.monitoring import build_monitoring
from openinference_operator.spec import parse
from openinference_router.dashboard.prometheus import QUERIES

from docs.blocks import ROOT, pages

MONITORING = ROOT / "charts/openinference/files/monitoring"
NAMES = re.compile(
    r"\b(?:openinference_(?:router|operator|requests|last|engine_steps|start|queued|prefill|decode)"
    r"|vllm:)\w+"
)
SELECTOR = 'inference_namespace="team-a"'
VARIABLES = {"$namespace": ".*", "$service": ".*"}
LABEL_VALUES = re.compile(r"label_values\((.+), \w+\)")
CODE = re.compile(r"`([^`\n]+)`")


def expressions() -> dict[str, list[str]]:
    """Those of each source, as Prometheus takes them."""
    return {
        "alerts of the chart": _of_rules(yaml.safe_load((MONITORING / "alerts.yaml").read_text())),
        "alerts of the operator": _of_rules(_operators_rules()),
        "dashboards of Grafana": [*_of_dashboards()],
        "history of the dashboard": [
            query % 'inference_namespace=""' for query in QUERIES.values()
        ],
        "documentation": [*_of_pages()],
    }


def _of_rules(rules: Any) -> list[str]:
    return [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def _operators_rules() -> Any:
    """What the operator writes for a namespace with one service."""
    created = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    metadata = {"name": "demo", "namespace": "team-a", "uid": "u", "generation": 1}
    raw = {"spec": {"model": {"uri": "package://m/x.gguf"}}}
    service = parse(raw | {"metadata": metadata | {"creationTimestamp": created}})
    return build_monitoring([service])[-1]["spec"]


def _of_dashboards() -> Iterator[str]:
    for path in (MONITORING / "dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        for variable in dashboard["templating"]["list"]:
            asked += LABEL_VALUES.findall(variable["query"])
        for name, value in VARIABLES.items():
            asked = [expression.replace(name, value) for expression in asked]
        yield from asked


def _of_pages() -> Iterator[str]:
    """Code within the text that names a metric of ours."""
    for page in [*pages(), ROOT / "docs/reference/metrics.md"]:
        yield from filter(NAMES.search, CODE.findall(page.read_text()))
