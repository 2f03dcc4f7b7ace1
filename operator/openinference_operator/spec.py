"""The InferenceService as typed data: what the user wants, checked once, immutable after.

This module knows the names of the fields and the defaults of those outside the revision (the CRD
persists the same ones, so they only matter for `plan -f`). The defaults of fields inside the
revision belong to `manifests.engine`, which renders them; here such a field stays None when the
user did not set it. tests/operator/test_crd.py keeps this file and the CRD together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openinference_operator import names
from openinference_operator.fields import Fields, default, parse_quantity
from openinference_operator.model_spec import Model, parse_model
from openinference_operator.parallelism_spec import (
    GPU_RESOURCE,
    Parallelism,
    parse_parallelism,
)
from openinference_operator.pod_template_spec import PodTemplate, parse_pod_template
from openinference_operator.rollout_spec import Rollout, parse_rollout
from openinference_operator.scaling_spec import Autoscaling, parse_autoscaling

DTYPES = ("auto", "float32", "bfloat16", "float16")
KV_CACHE_DTYPES = ("auto", "fp8", "int8", "int8-int4", "int4")
ACTIVATIONS = ("auto", "fp8", "int8")
ALGORITHMS = ("LeastLoad", "PrefixAware")


@dataclass(frozen=True, slots=True)
class Engine:
    """Engine options; None where the operator's default holds."""

    image: str | None
    max_model_len: int | None
    max_sequences: int | None
    max_waiting: int | None
    dtype: str | None
    kv_cache_dtype: str | None
    activations: str | None


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
class Balancing:
    """How routers choose a group. `session_header`: empty without session affinity."""

    algorithm: str
    session_header: str


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
    parallelism: Parallelism | None
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    pod_template: PodTemplate
    autoscaling: Autoscaling | None
    rollout: Rollout
    restart_budget: RestartBudget
    queue: Queue
    balancing: Balancing
    revised: Mapping[str, Any]

    @property
    def gpus_per_pod(self) -> int:
        """GPUs that each engine pod asks for."""
        return _gpus(self.limits) or _gpus(self.requests)

    @property
    def memory_limit(self) -> int | None:
        """Bytes that an engine pod may use; None without a limit."""
        limit = parse_quantity(self.limits.get("memory", ""))
        return None if limit is None else int(limit)


REVISED_FIELDS = ("model", "engine", "parallelism", "resources", "podTemplate")


def parse(raw: Mapping[str, Any]) -> InferenceService:
    """Read a custom resource. Raises SpecError, which names the field and the remedy."""
    metadata = Fields("metadata", raw.get("metadata") or {})
    spec = Fields("", raw).section("spec")
    spec = Fields("spec", spec.values)
    name = metadata.required_text("name")
    resources = spec.section("resources")
    requests, limits = resources.texts("requests"), resources.texts("limits")
    return InferenceService(
        namespace=metadata.text("namespace") or "default",
        name=name,
        uid=metadata.text("uid") or "",
        generation=metadata.integer("generation") or 0,
        created_at=metadata.text("creationTimestamp") or "",
        restarted_at=metadata.texts("annotations").get(names.ANNOTATION_RESTARTED_AT, ""),
        suspend=spec.flag("suspend"),
        replicas=default(spec.integer("replicas"), 1),
        model=parse_model(spec.section("model"), name),
        engine=_engine(spec.section("engine")),
        parallelism=parse_parallelism(
            spec.section("parallelism"), _gpus(limits) or _gpus(requests)
        ),
        requests=requests,
        limits=limits,
        pod_template=parse_pod_template(spec.section("podTemplate")),
        autoscaling=parse_autoscaling(spec.section("autoscaling")),
        rollout=parse_rollout(spec.section("rollout")),
        restart_budget=_restart_budget(spec.section("failurePolicy").section("restartBudget")),
        queue=_queue(spec.section("router").section("queue")),
        balancing=_balancing(spec.section("router")),
        revised={field: spec.values[field] for field in REVISED_FIELDS if field in spec.values},
    )


def _engine(fields: Fields) -> Engine:
    return Engine(
        image=fields.text("image"),
        max_model_len=fields.integer("maxModelLen", minimum=16),
        max_sequences=fields.integer("maxSequences", minimum=1),
        max_waiting=fields.integer("maxWaiting"),
        dtype=fields.choice("dtype", DTYPES),
        kv_cache_dtype=fields.choice("kvCacheDtype", KV_CACHE_DTYPES),
        activations=fields.choice("activations", ACTIVATIONS),
    )


def _gpus(amounts: Mapping[str, str]) -> int:
    return int(parse_quantity(amounts.get(GPU_RESOURCE, "0")) or 0)


def _restart_budget(fields: Fields) -> RestartBudget:
    return RestartBudget(
        count=default(fields.integer("count"), 5),
        window_seconds=default(fields.duration_seconds("window"), 3600),
    )


def _queue(fields: Fields) -> Queue:
    return Queue(
        max_requests=default(fields.integer("maxRequests"), 1000),
        contended_timeout_seconds=default(fields.duration_seconds("contendedTimeout"), 60),
        cold_start_timeout_seconds=default(fields.duration_seconds("coldStartTimeout"), 600),
    )


def _balancing(fields: Fields) -> Balancing:
    return Balancing(
        algorithm=fields.choice("algorithm", ALGORITHMS) or "PrefixAware",
        session_header=fields.section("sessionAffinity").text("header") or "",
    )
