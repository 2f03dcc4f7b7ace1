"""`spec.autoscaling` as typed data: bounds, metrics and speed, as in HorizontalPodAutoscaler."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, TypeAlias, cast

from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields, default

METRIC_TYPES = ("Queue", "KVCache", "Latency", "BacklogSeconds", "Prometheus")


@dataclass(frozen=True, slots=True)
class Policy:
    """One limit of how fast the number of replicas may change."""

    type: Literal["Pods", "Percent"]
    value: int
    period_seconds: int


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """Rules of one direction, as in HorizontalPodAutoscaler v2."""

    stabilization_window_seconds: int
    select_policy: Literal["Max", "Min", "Disabled"]
    policies: tuple[Policy, ...]
    tolerance: Decimal


SCALE_UP = ScalingRules(
    0, "Max", (Policy("Pods", 4, 15), Policy("Percent", 100, 15)), Decimal("0.1")
)
SCALE_DOWN = ScalingRules(300, "Max", (Policy("Percent", 100, 15),), Decimal("0.1"))


@dataclass(frozen=True, slots=True)
class Average:
    """A metric that is summed over the service, and its wanted average per replica.

    Queue: requests. KVCache: shares of a cache. BacklogSeconds: seconds. Prometheus: of `query`.
    """

    type: Literal["Queue", "KVCache", "BacklogSeconds", "Prometheus"]
    target: Decimal
    query: str = ""


@dataclass(frozen=True, slots=True)
class Latency:
    """The 90th percentiles to keep, in seconds; at least one of them."""

    ttft: Decimal | None
    tpot: Decimal | None
    type: Literal["Latency"] = "Latency"


@dataclass(frozen=True, slots=True)
class Value:
    """A PromQL expression about the service as a whole, and its wanted value."""

    query: str
    target: Decimal
    type: Literal["Prometheus"] = "Prometheus"


Metric: TypeAlias = Average | Latency | Value


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Bounds, metrics and speed of the autoscaler."""

    min_replicas: int
    max_replicas: int
    interval_seconds: int
    idle_after_seconds: int
    metrics: tuple[Metric, ...]
    scale_up: ScalingRules
    scale_down: ScalingRules


def parse_autoscaling(fields: Fields) -> Autoscaling | None:
    """Read spec.autoscaling; None when it is not set."""
    if not fields.values:
        return None
    minimum = default(fields.integer("minReplicas"), 1)
    maximum = fields.required_integer("maxReplicas", minimum=1)
    if minimum > maximum:
        raise SpecError(fields.at("minReplicas"), f"is {minimum}, above maxReplicas = {maximum}")
    behavior = fields.section("behavior")
    return Autoscaling(
        min_replicas=minimum,
        max_replicas=maximum,
        interval_seconds=max(1, default(fields.duration_seconds("interval"), 15)),
        idle_after_seconds=default(
            fields.section("scaleToZero").duration_seconds("idleAfter"), 600
        ),
        metrics=_metrics(fields),
        scale_up=_scaling_rules(behavior.section("scaleUp"), SCALE_UP),
        scale_down=_scaling_rules(behavior.section("scaleDown"), SCALE_DOWN),
    )


def _metrics(fields: Fields) -> tuple[Metric, ...]:
    metrics = tuple(_metric(entry) for entry in fields.sections("metrics"))
    if not metrics:
        raise SpecError(
            fields.at("metrics"), "is empty; add {type: Queue, target: {averageValue: 4}}"
        )
    return metrics


def _metric(fields: Fields) -> Metric:
    target = fields.section("target")
    match fields.choice("type", METRIC_TYPES):
        case "KVCache":
            return Average("KVCache", _positive(target, "averageUtilization") / 100)
        case "Latency":
            return _latency(fields.section("latency"))
        case "BacklogSeconds":
            return Average("BacklogSeconds", _positive(target, "averageValue"))
        case "Prometheus":
            query = fields.section("prometheus").required_text("query")
            if "value" in target.values:
                return Value(query, _positive(target, "value"))
            return Average("Prometheus", _positive(target, "averageValue"), query)
        case _:
            return Average("Queue", _positive(target, "averageValue"))


def _positive(target: Fields, name: str) -> Decimal:
    value = target.quantity(name)
    if value is None or value <= 0:
        raise SpecError(target.at(name), f'is {value}; use a quantity above zero: "4"')
    return value


def _latency(fields: Fields) -> Latency:
    ttft, tpot = fields.exact_seconds("ttftP90"), fields.exact_seconds("tpotP90")
    if not ttft and not tpot:
        raise SpecError(fields.at("ttftP90"), "is missing; set ttftP90 or tpotP90 above zero: 2s")
    return Latency(ttft, tpot)


def _scaling_rules(fields: Fields, usual: ScalingRules) -> ScalingRules:
    select = fields.choice("selectPolicy", ("Max", "Min", "Disabled")) or usual.select_policy
    policies = tuple(_policy(entry) for entry in fields.sections("policies"))
    window = fields.integer("stabilizationWindowSeconds")
    tolerance = fields.quantity("tolerance")
    return ScalingRules(
        stabilization_window_seconds=default(window, usual.stabilization_window_seconds),
        select_policy=cast("Literal['Max', 'Min', 'Disabled']", select),
        policies=policies or usual.policies,
        tolerance=default(tolerance, usual.tolerance),
    )


def _policy(fields: Fields) -> Policy:
    kind = fields.choice("type", ("Pods", "Percent")) or "Pods"
    return Policy(
        type=cast("Literal['Pods', 'Percent']", kind),
        value=fields.required_integer("value", minimum=1),
        period_seconds=fields.required_integer("periodSeconds", minimum=1),
    )
