"""Grafana's dashboards, made from tables of panels: what to draw, in which unit, by which query.

The JSON that Grafana wants is long and says little; these tables say what matters, and a test
compares the files with them.
"""

from typing import Any, NamedTuple

BY = "by (inference_namespace, inference_service)"
OF = 'inference_namespace=~"$namespace",inference_service=~"$service"'
ENGINE = f'component="engine",{OF}'

WIDTH, HEIGHT, COLUMNS = 12, 8, 2


class Panel(NamedTuple):
    """One graph: queries by their legends."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


def _quantiles(metric: str, where: str = OF) -> dict[str, str]:
    return {
        f"p{percent} {{{{inference_service}}}}": f"histogram_quantile({percent / 100}, sum by "
        f"(inference_namespace, inference_service, le) (rate({metric}_bucket{{{where}}}[5m])))"
        for percent in (50, 95, 99)
    }


def _sum(metric: str, where: str = OF) -> str:
    return f"sum {BY} ({metric}{{{where}}})"


def _rate(metric: str, where: str = OF) -> str:
    return f"sum {BY} (rate({metric}{{{where}}}[5m]))"


NAME = "{{inference_service}}"

DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "service": (
        "OpenInference / Service",
        (
            Panel(
                "Tokens per second",
                "short",
                {NAME: _rate("openinference_router_output_tokens_total")},
            ),
            Panel(
                "Requests",
                "short",
                {
                    f"running {NAME}": _sum("openinference_router_in_flight"),
                    f"waiting {NAME}": _sum(
                        "openinference_requests_waiting", f'component="router",{OF}'
                    ),
                },
            ),
            Panel(
                "Time to first token", "s", _quantiles("openinference_router_first_token_seconds")
            ),
            Panel(
                "Time per output token",
                "s",
                _quantiles("openinference_router_time_per_output_token_seconds"),
            ),
            Panel(
                "Requests by status",
                "reqps",
                {
                    "{{inference_service}} {{code}}": "sum by (inference_service, code) "
                    f"(rate(openinference_router_requests_total{{{OF}}}[5m]))"
                },
                "499: the client went away. 429: full. 503: no replica in time.",
            ),
            Panel(
                "Replicas that take requests",
                "short",
                {NAME: f"max {BY} (openinference_router_groups_admitted{{{OF}}})"},
            ),
            Panel(
                "Time that requests wait for a seat",
                "s",
                {
                    "p95 {{inference_service}}": "histogram_quantile(0.95, sum by "
                    "(inference_service, le) (rate(openinference_router_held_seconds_bucket"
                    '{inference_service=~"$service"}[5m])))'
                },
            ),
            Panel(
                "Attempts that failed and were made again",
                "reqps",
                {
                    "{{inference_service}}": "sum by (inference_service) "
                    '(rate(openinference_router_retries_total{inference_service=~"$service"}[5m]))'
                },
                "A client notices none of them; many mean that replicas break.",
            ),
        ),
    ),
    "engine": (
        "OpenInference / Engine",
        (
            Panel(
                "Tokens per second by replica",
                "short",
                {"{{pod}}": f"sum by (pod) (rate(vllm:generation_tokens_total{{{OF}}}[5m]))"},
            ),
            Panel(
                "Sequences",
                "short",
                {
                    f"running {NAME}": _sum("openinference_requests_running", ENGINE),
                    f"waiting {NAME}": _sum("openinference_requests_waiting", ENGINE),
                },
            ),
            Panel(
                "KV cache in use",
                "percentunit",
                {"{{pod}}": f"max by (pod) (vllm:kv_cache_usage_perc{{{OF}}})"},
            ),
            Panel(
                "Prompt tokens found in the prefix cache",
                "percentunit",
                {
                    NAME: f"{_rate('vllm:prefix_cache_hits_total')} / "
                    f"{_rate('vllm:prefix_cache_queries_total')}"
                },
            ),
            Panel(
                "Preemptions",
                "short",
                {NAME: _rate("vllm:num_preemptions_total")},
                "Sequences that lost their place in the KV cache and are computed again.",
            ),
            Panel(
                "Time since the last step",
                "s",
                {"{{pod}}": f"max by (pod) (openinference_last_step_age_seconds{{{OF}}})"},
            ),
            Panel("Time between two tokens", "s", _quantiles("vllm:inter_token_latency_seconds")),
            Panel(
                "Tokens per step",
                "short",
                {
                    f"mean {NAME}": f"{_rate('vllm:iteration_tokens_total_sum')} / "
                    f"{_rate('vllm:iteration_tokens_total_count')}"
                },
            ),
        ),
    ),
    "operator": (
        "OpenInference / Operator",
        (
            Panel(
                "Time of a pass",
                "s",
                {
                    f"p{percent} {{{{key}}}}": f"histogram_quantile({percent / 100}, sum by "
                    "(key, le) (rate(openinference_operator_reconcile_seconds_bucket[5m])))"
                    for percent in (50, 95)
                },
            ),
            Panel(
                "Passes",
                "short",
                {
                    "{{key}} {{result}}": "sum by (key, result) "
                    "(rate(openinference_operator_reconcile_seconds_count[5m]))"
                },
            ),
            Panel(
                "Calls of the API server",
                "reqps",
                {
                    "{{verb}} {{kind}} {{code}}": "sum by (verb, kind, code) "
                    "(rate(openinference_operator_api_calls_total[5m]))"
                },
            ),
            Panel(
                "Keys that wait", "short", {"waiting": "max(openinference_operator_queue_depth)"}
            ),
            Panel("Leaders", "short", {"leaders": "sum(openinference_operator_is_leader)"}),
            Panel(
                "Lag of the event loop",
                "s",
                {"{{pod}}": "max by (pod) (openinference_operator_loop_lag_seconds)"},
            ),
            Panel(
                "Services that are not Ready",
                "short",
                {
                    "{{reason}}": "count by (reason) (max by (inference_namespace, "
                    "inference_service, reason) (openinference_operator_condition"
                    '{condition="Ready",status="False"}))'
                },
            ),
        ),
    ),
}


def dashboard(name: str) -> dict[str, Any]:
    """One dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[name]
    return {
        "uid": f"openinference-{name}",
        "title": title,
        "tags": ["openinference"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(with_service=name != "operator")},
        "panels": [_panel(panel, number) for number, panel in enumerate(panels)],
    }


def _variables(*, with_service: bool) -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    if not with_service:
        return [source]
    metric = "openinference_router_groups_admitted"
    namespaces = f"label_values({metric}, inference_namespace)"
    services = f'label_values({metric}{{inference_namespace=~"$namespace"}}, inference_service)'
    return [source, _variable("namespace", namespaces), _variable("service", services)]


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "query": query,
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    row, column = divmod(number, COLUMNS)
    targets = [
        {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
        for index, (legend, expression) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "$datasource"},
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }
