"""What Prometheus Operator is told of a namespace, where its kinds exist.

One ServiceMonitor for all engines, one for the routers, and alerts that hold for every service:
each says which promise is broken, for whom, and where to look. Clusters without these kinds find
the pods by their scrape annotations.
"""

from collections.abc import Sequence

from openinference_operator import names
from openinference_operator.manifests.common import Manifest, component_labels, shared_child
from openinference_operator.spec import InferenceService

API_VERSION = "monitoring.coreos.com/v1"
KINDS = ("ServiceMonitor", "PrometheusRule")
SCRAPE_INTERVAL = "5s"  # the autoscaler reads the queue as often as every few seconds
BY_SERVICE = "by (inference_namespace, inference_service)"


def build_monitoring(services: Sequence[InferenceService]) -> list[Manifest]:
    """The monitors and alerts of a namespace."""
    return [
        _monitor(services, names.ENGINES, "engine", "http"),
        _monitor(services, names.ROUTER, "router", "internal"),
        _rules(services),
    ]


def _monitor(
    services: Sequence[InferenceService], name: str, component: str, port: str
) -> Manifest:
    endpoint = {"port": port, "path": "/metrics", "interval": SCRAPE_INTERVAL}
    return shared_child(services, API_VERSION, "ServiceMonitor", name) | {
        "spec": {
            "selector": {"matchLabels": component_labels(component)},
            "endpoints": [endpoint],
        }
    }


def _rules(services: Sequence[InferenceService]) -> Manifest:
    namespace = services[0].namespace
    group = {"name": "openinference", "rules": _alerts(f'inference_namespace="{namespace}"')}
    return shared_child(services, API_VERSION, "PrometheusRule", names.ROUTER) | {
        "spec": {"groups": [group]}
    }


def _alerts(where: str) -> list[Manifest]:
    waiting = f'sum {BY_SERVICE} (openinference_requests_waiting{{component="router",{where}}})'
    admitted = f"max {BY_SERVICE} (openinference_router_groups_admitted{{{where}}})"
    requests = f"openinference_router_requests_total{{{where}"
    failed = f'sum {BY_SERVICE} (rate({requests},code=~"5.."}}[5m]))'
    ended = f"sum {BY_SERVICE} (rate({requests}}}[5m]))"
    age = f"max {BY_SERVICE} (openinference_last_step_age_seconds{{{where}}})"
    running = f"sum {BY_SERVICE} (openinference_requests_running{{{where}}})"
    return [
        _alert(
            "InferenceRequestsWaitInVain",
            f"{waiting} > 0 and {admitted} == 0",
            "10m",
            "critical",
            "requests wait and no replica takes them",
            "kubectl describe infsvc shows the cause in its conditions",
        ),
        _alert(
            "InferenceRequestsFail",
            f"{failed} / {ended} > 0.05",
            "5m",
            "critical",
            "more than 5 % of the requests end with a server error",
            "the routers' logs name request and replica",
        ),
        _alert(
            "InferenceQueueGrows",
            f"{waiting} > 0 and deriv(({waiting})[10m:1m]) > 0",
            "15m",
            "warning",
            "the queue has been growing for a quarter of an hour",
            "raise autoscaling.maxReplicas, or look whether new replicas get ready",
        ),
        _alert(
            "InferenceEngineStuck",
            f"{age} > 60 and {running} > 0",
            "1m",
            "warning",
            "an engine with running requests has made no step for a minute",
            "the pod is restarted by its liveness probe; its log tells what it did last",
        ),
    ]


def _alert(
    name: str, expression: str, lasts: str, severity: str, summary: str, remedy: str
) -> Manifest:
    who = "{{ $labels.inference_namespace }}/{{ $labels.inference_service }}"
    return {
        "alert": name,
        "expr": expression,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {"summary": f"{who}: {summary}", "description": f"What to do: {remedy}."},
    }
