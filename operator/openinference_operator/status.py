"""The status of an InferenceService as it is written: numbers, record of the scaler, conditions.

`lastTransitionTime` changes only with a condition's status, and a status that says nothing new is
not written; both are decided here, from the status that is there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from openinference_operator import timestamps
from openinference_operator.auto_layout import Choice
from openinference_operator.condition import Condition
from openinference_operator.conditions import judge
from openinference_operator.facts import Facts
from openinference_operator.manifests.engine import selector
from openinference_operator.manifests.services import client_url
from openinference_operator.observe import Observed
from openinference_operator.scaling import Input, Lost, describe_target
from openinference_operator.sizing import Sizing
from openinference_operator.spec import InferenceService

Status: TypeAlias = dict[str, Any]


def build_status(facts: Facts) -> Status:
    """Render the whole status."""
    service, plan, observed, now = facts.service, facts.plan, facts.observed, facts.now
    labels = ",".join(f"{key}={value}" for key, value in selector(service.name).items())
    status: Status = {
        "observedGeneration": service.generation,
        "modelName": service.model.name,
        "url": client_url(service),
        "replicas": len(facts.course.states),
        "readyReplicas": sum(group.is_ready for group in observed.groups),
        "routableReplicas": facts.routable,
        "updatedReplicas": len(facts.updated),
        "replicasSummary": f"{facts.routable}/{plan.desired}",
        "ranksSummary": _ranks(observed),
        "selector": labels,
        "updateRevision": facts.course.revision,
        "conditions": build_conditions(judge(facts), observed.status, service, now),
    }
    if model := _model(facts):
        status["model"] = model
    if facts.sizing is not None:
        status["plan"] = _plan(facts.sizing, observed.layout(service))
    if facts.course.current:
        status["currentRevision"] = facts.course.current
    if service.autoscaling is not None:
        status["scaling"] = _scaling(facts, now)
    return status


def build_refusal(
    conditions: Sequence[Condition],
    known: Mapping[str, Any],
    before: Mapping[str, Any],
    generation: int,
    now: float,
) -> Status:
    """The status of a service that cannot be brought to its spec.

    What is `known` of it stays, but for these conditions; times go on from the status `before`.
    """
    replaced = {condition.type for condition in conditions}
    kept = [entry for entry in known.get("conditions") or [] if entry["type"] not in replaced]
    rendered = [_render(condition, before, generation, now) for condition in conditions]
    return {**known, "observedGeneration": generation, "conditions": [*rendered, *kept]}


def build_conditions(
    conditions: Sequence[Condition],
    before: Mapping[str, Any],
    service: InferenceService,
    now: float,
) -> list[dict[str, Any]]:
    """Render conditions; their times go on from the status before."""
    return [_render(condition, before, service.generation, now) for condition in conditions]


def recorded_desired(service: InferenceService, status: Mapping[str, Any]) -> int:
    """The number of replicas asked for so far: the record, within the bounds of the spec."""
    if service.suspend:
        return 0
    if service.autoscaling is None:
        return service.replicas
    recorded = (status.get("scaling") or {}).get("desired", service.replicas)
    return within_bounds(service, int(recorded))


def within_bounds(service: InferenceService, replicas: int) -> int:
    """A number of replicas, within the present bounds of the autoscaler if there is one."""
    if service.autoscaling is None:
        return replicas
    bounded = max(replicas, service.autoscaling.min_replicas)
    return min(bounded, service.autoscaling.max_replicas)


def _render(
    condition: Condition, before: Mapping[str, Any], generation: int, now: float
) -> dict[str, Any]:
    entries = before.get("conditions") or []
    previous: Mapping[str, Any] = next(
        (entry for entry in entries if entry["type"] == condition.type), {}
    )
    unchanged = previous.get("status") == condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "observedGeneration": generation,
        "lastTransitionTime": previous["lastTransitionTime"]
        if unchanged
        else timestamps.to_text(now),
        "reason": condition.reason,
        "message": condition.message,
    }


def _ranks(observed: Observed) -> str:
    """Ranks in Ready pods, of all in the groups that exist."""
    ready = total = 0
    for group in observed.groups:
        layout = observed.layout_of(group)
        ready += group.num_ready_pods * layout.ranks_per_pod
        total += layout.num_ranks
    return f"{ready}/{total}"


def _model(facts: Facts) -> dict[str, Any]:
    """What is known of a model that is fetched."""
    result, progress = facts.observed.preparation.result, facts.observed.preparation.progress
    if result is not None:
        known = {"sizeBytes": result.num_bytes, "downloadedBytes": result.num_bytes}
        return known | ({"resolvedRevision": result.revision} if result.revision else {})
    if progress is not None and progress.total_bytes:
        return {
            "sizeBytes": progress.total_bytes,
            "downloadedBytes": progress.downloaded_bytes,
        }
    return {}


def _plan(sizing: Sizing, choice: Choice) -> dict[str, Any]:
    plan = {
        "parallelism": str(choice),
        "podsPerReplica": sizing.pods,
        "gpusPerPod": sizing.gpus_per_pod,
        "gpusPerReplica": sizing.gpus,
        "weightsPerGPU": sizing.weights_per_gpu,
        "kvPerGPU": sizing.kv_per_gpu,
        "maxConcurrency": sizing.max_concurrency,
    }
    return {name: known for name, known in plan.items() if known is not None}


def _scaling(facts: Facts, now: float) -> dict[str, Any]:
    """The record of the scaler; without a new evaluation the last one stays."""
    before = facts.observed.status.get("scaling") or {}
    if facts.decision is None:
        return {**before, "desired": before.get("desired", facts.plan.desired)}
    scaling: dict[str, Any] = {
        "desired": facts.plan.desired,
        "reason": facts.decision.reason,
        "message": facts.decision.message,
        "inputs": [_input(entry) for entry in facts.decision.inputs],
    }
    changed = before.get("desired") not in (None, facts.plan.desired)
    last = timestamps.to_text(now) if changed else before.get("lastScaleTime")
    return scaling | ({"lastScaleTime": last} if last else {})


def _input(entry: Input) -> dict[str, Any]:
    known: dict[str, Any] = {
        "type": entry.metric.type,
        "source": "Lost" if isinstance(entry.reading, Lost) else entry.reading.source,
        "value": entry.reading.reason if isinstance(entry.reading, Lost) else entry.reading.words,
        "target": describe_target(entry.metric),
    }
    return known if entry.proposal is None else known | {"proposal": entry.proposal}
