"""The InferenceService as typed data: what the user wants, checked once, immutable after.

This module knows the names of the fields and the defaults of those outside the revision (the CRD
persists the same ones, so they only matter for `plan -f`). The defaults of fields inside the
revision belong to `manifests.engine`, which renders them; here such a field stays None when the
user did not set it. tests/operator/test_crd.py keeps this file and the CRD together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypeVar, cast

from openinference_operator import names
from openinference_operator.errors import SpecError
from openinference_operator.fields import Fields, Share

Value = TypeVar("Value")

URI_SCHEMES = ("file", "pvc", "package")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Model:
    """The model and the name clients use for it."""

    uri: str
    name: str


@dataclass(frozen=True, slots=True)
class Engine:
    """Engine options; None where the operator's default holds."""

    image: str | None
    max_model_len: int | None
    max_sequences: int | None
    max_waiting: int | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """The part of a PodSpec that users may set, in the API's own shape."""

    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, Any], ...]
    env: tuple[tuple[str, str], ...]


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
class Metric:
    """A metric to scale by, and its wanted average per replica."""

    type: Literal["Queue"]
    average_value: Decimal


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


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new revision replaces the old one."""

    max_surge: Share
    max_unavailable: Share
    drain_timeout_seconds: int
    progress_deadline_seconds: int


@dataclass(frozen=True, slots=True)
class RestartBudget:
    """How often the pod of a group that crashes in place may be made anew within a window."""

    count: int
    window_seconds: int


@dataclass(frozen=True, slots=True)
class Queue:
    """Bounds of the routers' queue."""

    max_requests: int
    contended_timeout_seconds: int
    cold_start_timeout_seconds: int


@dataclass(frozen=True, slots=True)
class InferenceService:
    """One custom resource. `revised`: the set fields that need new pods, as the user wrote them."""

    namespace: str
    name: str
    uid: str
    generation: int
    created_at: str
    restarted_at: str
    suspend: bool
    replicas: int
    model: Model
    engine: Engine
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    pod_template: PodTemplate
    autoscaling: Autoscaling | None
    rollout: Rollout
    restart_budget: RestartBudget
    queue: Queue
    revised: Mapping[str, Any]


REVISED_FIELDS = ("model", "engine", "resources", "podTemplate")


def parse(raw: Mapping[str, Any]) -> InferenceService:
    """Read a custom resource. Raises SpecError, which names the field and the remedy."""
    metadata = Fields("metadata", raw.get("metadata") or {})
    spec = Fields("", raw).section("spec")
    spec = Fields("spec", spec.values)
    name = metadata.required_text("name")
    resources = spec.section("resources")
    return InferenceService(
        namespace=metadata.text("namespace") or "default",
        name=name,
        uid=metadata.text("uid") or "",
        generation=metadata.integer("generation") or 0,
        created_at=metadata.text("creationTimestamp") or "",
        restarted_at=metadata.texts("annotations").get(names.ANNOTATION_RESTARTED_AT, ""),
        suspend=spec.flag("suspend"),
        replicas=_default(spec.integer("replicas"), 1),
        model=_model(spec.section("model"), name),
        engine=_engine(spec.section("engine")),
        requests=resources.texts("requests"),
        limits=resources.texts("limits"),
        pod_template=_pod_template(spec.section("podTemplate")),
        autoscaling=_autoscaling(spec.section("autoscaling")),
        rollout=_rollout(spec.section("rollout")),
        restart_budget=_restart_budget(spec.section("failurePolicy").section("restartBudget")),
        queue=_queue(spec.section("router").section("queue")),
        revised={field: spec.values[field] for field in REVISED_FIELDS if field in spec.values},
    )


def _model(fields: Fields, service_name: str) -> Model:
    uri = fields.required_text("uri")
    scheme, separator, rest = uri.partition("://")
    if scheme not in URI_SCHEMES or not separator or not rest:
        known = ", ".join(f"{known}://" for known in URI_SCHEMES)
        raise SpecError(fields.at("uri"), f"is {uri!r}; use one of the schemes {known}")
    if scheme != "file" and not rest.partition("/")[2]:
        raise SpecError(fields.at("uri"), f"is {uri!r}; name a file: {scheme}://<name>/<path>")
    return Model(uri=uri, name=fields.text("name") or service_name)


def _engine(fields: Fields) -> Engine:
    return Engine(
        image=fields.text("image"),
        max_model_len=fields.integer("maxModelLen", minimum=16),
        max_sequences=fields.integer("maxSequences", minimum=1),
        max_waiting=fields.integer("maxWaiting"),
        dtype=fields.choice("dtype", DTYPES),
    )


def _pod_template(fields: Fields) -> PodTemplate:
    env = [
        (entry.required_text("name"), entry.text("value") or "") for entry in fields.sections("env")
    ]
    return PodTemplate(
        node_selector=fields.texts("nodeSelector"),
        tolerations=tuple(entry.values for entry in fields.sections("tolerations")),
        env=tuple(env),
    )


def _autoscaling(fields: Fields) -> Autoscaling | None:
    if not fields.values:
        return None
    minimum = _default(fields.integer("minReplicas"), 1)
    maximum = fields.required_integer("maxReplicas", minimum=1)
    if minimum > maximum:
        raise SpecError(fields.at("minReplicas"), f"is {minimum}, above maxReplicas = {maximum}")
    behavior = fields.section("behavior")
    return Autoscaling(
        min_replicas=minimum,
        max_replicas=maximum,
        interval_seconds=max(1, _default(fields.duration_seconds("interval"), 15)),
        idle_after_seconds=_default(
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
    kind = fields.choice("type", ("Queue",)) or "Queue"
    target = fields.section("target")
    average = target.quantity("averageValue")
    if average is None or average <= 0:
        raise SpecError(target.at("averageValue"), f'is {average}; use a quantity above zero: "4"')
    return Metric(cast("Literal['Queue']", kind), average)


def _scaling_rules(fields: Fields, default: ScalingRules) -> ScalingRules:
    select = fields.choice("selectPolicy", ("Max", "Min", "Disabled")) or default.select_policy
    policies = tuple(_policy(entry) for entry in fields.sections("policies"))
    window = fields.integer("stabilizationWindowSeconds")
    tolerance = fields.quantity("tolerance")
    return ScalingRules(
        stabilization_window_seconds=_default(window, default.stabilization_window_seconds),
        select_policy=cast("Literal['Max', 'Min', 'Disabled']", select),
        policies=policies or default.policies,
        tolerance=_default(tolerance, default.tolerance),
    )


def _policy(fields: Fields) -> Policy:
    kind = fields.choice("type", ("Pods", "Percent")) or "Pods"
    return Policy(
        type=cast("Literal['Pods', 'Percent']", kind),
        value=fields.required_integer("value", minimum=1),
        period_seconds=fields.required_integer("periodSeconds", minimum=1),
    )


def _rollout(fields: Fields) -> Rollout:
    surge = _default(fields.share("maxSurge"), Share(1, is_percent=False))
    unavailable = _default(fields.share("maxUnavailable"), Share(0, is_percent=False))
    if surge.value == 0 and unavailable.value == 0:
        raise SpecError(
            fields.at("maxSurge"), "is 0, and so is maxUnavailable; set one of them to 1"
        )
    return Rollout(
        max_surge=surge,
        max_unavailable=unavailable,
        drain_timeout_seconds=_default(fields.duration_seconds("drainTimeout"), 600),
        progress_deadline_seconds=_default(fields.duration_seconds("progressDeadline"), 1800),
    )


def _restart_budget(fields: Fields) -> RestartBudget:
    return RestartBudget(
        count=_default(fields.integer("count"), 5),
        window_seconds=_default(fields.duration_seconds("window"), 3600),
    )


def _queue(fields: Fields) -> Queue:
    return Queue(
        max_requests=_default(fields.integer("maxRequests"), 1000),
        contended_timeout_seconds=_default(fields.duration_seconds("contendedTimeout"), 60),
        cold_start_timeout_seconds=_default(fields.duration_seconds("coldStartTimeout"), 600),
    )


def _default(value: Value | None, default: Value) -> Value:
    return default if value is None else value
