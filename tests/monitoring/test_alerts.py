"""Each alert fires when it should and is silent when it should be, as promtool judges.

A case gives the series of one minute each and when to look. `quiet` is the case that one might
confuse with the bad one: a few failures, a short trouble, one busy replica among two.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from openinference_operator.manifests.monitoring import build_monitoring
from openinference_operator.spec import parse

from e2e.cluster import packages

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "charts/openinference/files/monitoring/alerts.yaml"
OF = 'inference_namespace="team-a",inference_service="demo"'


class Case(NamedTuple):
    at: str
    bad: dict[str, str]
    quiet: dict[str, str]


def requests(failed: int, minutes: int) -> dict[str, str]:
    """A hundred requests a minute, so many of which fail."""
    series = 'openinference_router_requests_total{%s,inference_service="demo",code="%s"}'
    place = 'inference_namespace="team-a"'
    return {
        series % (place, "500"): f"0+{failed}x{minutes}",
        series % (place, "200"): f"0+{100 - failed}x{minutes}",
    }


def histogram(metric: str, below: str, above: str, num_below: int) -> dict[str, str]:
    """Ten observations a minute: so many below the first bound, the others below the second."""
    bucket = "%s_bucket{%s,le=%s}"
    return {
        bucket % (metric, OF, json.dumps(below)): f"0+{num_below}x40",
        bucket % (metric, OF, json.dumps(above)): "0+10x40",
        bucket % (metric, OF, '"+Inf"'): "0+10x40",
    }


def condition(kind: str, status: str, reason: str, values: str = "1x60") -> dict[str, str]:
    """As two replicas of the operator tell it."""
    labels = f'{OF},condition="{kind}",status="{status}",reason="{reason}"'
    return {
        f'openinference_operator_condition{{{labels},pod="{pod}"}}': values for pod in ("a", "b")
    }


def leaders(first: int, second: int) -> dict[str, str]:
    metric = "openinference_operator_is_leader"
    return {f'{metric}{{pod="a"}}': f"{first}x20", f'{metric}{{pod="b"}}': f"{second}x20"}


def turns(first: str, second: str) -> dict[str, str]:
    """Who leads, minute by minute."""
    metric = "openinference_operator_is_leader"
    return {f'{metric}{{pod="a"}}': first, f'{metric}{{pod="b"}}': second}


def expiry(days: int) -> dict[str, str]:
    """As two routers tell it; the clock of these tests begins at 0."""
    metric = "openinference_router_certificate_expiry_timestamp_seconds"
    labels = 'inference_namespace="team-a"'
    return {f'{metric}{{{labels},pod="{pod}"}}': f"{days * 86400}x30" for pod in ("a", "b")}


def passes(failed: int) -> dict[str, str]:
    metric = 'openinference_operator_reconcile_seconds_count{key="service",result="%s"}'
    return {metric % "error": f"0+{failed}x60", metric % "ok": f"0+{10 - failed}x60"}


def cache(first: float, second: float) -> dict[str, str]:
    metric = "vllm:kv_cache_usage_perc{%s,pod=%s}"
    return {metric % (OF, '"a"'): f"{first}x60", metric % (OF, '"b"'): f"{second}x60"}


def admitted(values: str) -> dict[str, str]:
    return {f"openinference_router_groups_admitted{{{OF}}}": values}


def waiting(values: str, num_admitted: int = 1) -> dict[str, str]:
    metric = f'openinference_requests_waiting{{{OF},component="router"}}'
    return {metric: values} | admitted(f"{num_admitted}x60")


def steps(age: int, running: int) -> dict[str, str]:
    return {
        f"openinference_last_step_age_seconds{{{OF}}}": f"{age}x60",
        f"openinference_requests_running{{{OF}}}": f"{running}x60",
    }


FIRST, EACH = (
    f"openinference_router_{name}_seconds" for name in ("first_token", "time_per_output_token")
)
TRANSIENT = "1x5 _x55"

CASES = {
    "InferenceErrorBudgetBurnsFast": Case("70m", requests(10, 80), requests(1, 80)),
    "InferenceErrorBudgetBurnsSlowly": Case("7h", requests(4, 430), requests(1, 430)),
    "InferenceFirstTokenLate": Case(
        "30m", histogram(FIRST, "5", "10", 0), histogram(FIRST, "5", "10", 10)
    ),
    "InferenceTokensSlow": Case(
        "30m", histogram(EACH, "0.2", "0.5", 0), histogram(EACH, "0.2", "0.5", 10)
    ),
    "InferenceCacheFull": Case("30m", cache(0.99, 0.98), cache(0.99, 0.3)),
    "InferenceReplicaFlaps": Case("20m", admitted("1 0 " * 12), admitted("1 0 1" + " 1" * 20)),
    "InferenceServiceNotReady": Case(
        "20m",
        condition("Ready", "False", "CrashLoop"),
        condition("Ready", "False", "CrashLoop", TRANSIENT),
    ),
    "InferenceRolloutStuck": Case(
        "40m",
        condition("Progressing", "True", "RollingOut"),
        condition("Progressing", "True", "RollingOut", TRANSIENT),
    ),
    "InferenceRolledBack": Case(
        "5m",
        condition("Progressing", "False", "RolledBack"),
        condition("Progressing", "True", "Complete"),
    ),
    "InferenceScalingLimited": Case(
        "20m",
        condition("ScalingLimited", "True", "TooManyReplicas"),
        condition("ScalingLimited", "True", "ScaleUpLimit"),
    ),
    "InferenceMetricsLost": Case(
        "20m",
        condition("ScalingActive", "True", "FallbackDemand"),
        condition("ScalingActive", "True", "ValidMetricFound"),
    ),
    "InferenceCertificateEnds": Case("20m", expiry(6), expiry(30)),
    "InferenceOperatorLeaderFlaps": Case(
        "30m",
        turns("1 0 " * 15, "0 1 " * 15),
        turns("1x5 0x24", "0x5 1x24"),
    ),
    "InferenceOperatorWithoutLeader": Case("10m", leaders(0, 0), leaders(0, 1)),
    "InferenceOperatorTwoLeaders": Case("10m", leaders(1, 1), leaders(1, 0)),
    "InferenceOperatorFailing": Case("40m", passes(8), passes(2)),
    "InferenceOperatorBehind": Case(
        "20m",
        {"openinference_operator_queue_depth": "500x20"},
        {"openinference_operator_queue_depth": "500x5 0x15"},
    ),
}
FROM_THE_OPERATOR = {
    "InferenceRequestsWaitInVain": Case("20m", waiting("3x60", 0), waiting("3x60", 1)),
    "InferenceRequestsFail": Case("20m", requests(10, 30), requests(1, 30)),
    "InferenceQueueGrows": Case("40m", waiting("0+2x60"), waiting("20x60")),
    "InferenceEngineStuck": Case("20m", steps(90, 2), steps(90, 0)),
}


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own tool; root on a Debian machine gets it installed."""
    found = shutil.which("promtool")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        packages.install(("prometheus",))
        found = shutil.which("promtool")
    return found or pytest.skip("no promtool on PATH; on Debian: apt-get install prometheus")


@pytest.fixture(scope="session")
def operators_rules(tmp_path_factory) -> Path:
    """What the operator writes for a namespace, as a rule file."""
    raw = {
        "metadata": {"name": "demo", "namespace": "team-a", "uid": "u", "generation": 1},
        "spec": {"model": {"uri": "package://m/x.gguf"}},
    }
    raw["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    rules = build_monitoring([parse(raw)])[-1]["spec"]
    path = tmp_path_factory.mktemp("rules") / "operator.yaml"
    path.write_text(yaml.safe_dump(rules))
    return path


def check(promtool: str, rules: Path, cases: dict[str, Case], folder: Path) -> str:
    """What promtool complains of; empty when every case is as it should be."""
    tests = [
        test
        for alert, case in cases.items()
        for test in (_test(alert, case.at, case.bad, 1), _test(alert, case.at, case.quiet, 0))
    ]
    document = {"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests}
    (folder / "test.json").write_text(json.dumps(document))
    done = subprocess.run(
        [promtool, "test", "rules", folder / "test.json"], capture_output=True, text=True
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _test(alert: str, at: str, series: dict[str, str], num_firing: int) -> dict:
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
    samples = [{"labels": "{}", "value": num_firing}] if num_firing else []
    return {
        "name": f"{alert} {'fires' if num_firing else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": at, "exp_samples": samples}],
    }


def test_alerts_of_the_chart_fire_and_are_silent(promtool, tmp_path):
    assert check(promtool, RULES, CASES, tmp_path) == ""


def test_alerts_of_the_operator_fire_and_are_silent(promtool, operators_rules, tmp_path):
    assert check(promtool, operators_rules, FROM_THE_OPERATOR, tmp_path) == ""


def alerts_in(path: Path) -> list[dict]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_a_case_and_a_runbook_of_its_own(operators_rules):
    known = [rule["alert"] for path in (RULES, operators_rules) for rule in alerts_in(path)]
    assert sorted(known) == sorted([*CASES, *FROM_THE_OPERATOR])
    pages = {path.stem for path in (ROOT / "docs/runbooks").glob("Inference*.md")}
    assert pages == set(known)


@pytest.mark.parametrize("alert", [*CASES, *FROM_THE_OPERATOR])
def test_a_runbook_says_what_it_means_and_what_to_do(alert):
    text = (ROOT / "docs/runbooks" / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    for heading in ("## What it means", "## Look", "## Do"):
        assert f"\n{heading}\n" in text
