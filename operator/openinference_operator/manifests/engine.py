"""The engine's pods: the template of a revision, and the StatefulSet of one group.

The template is rendered once, kept in the ControllerRevision and never changed: the defaults of
fields inside the revision, the default image among them, are filled in here. A StatefulSet is the
template plus the name of its group.
"""

from typing import Any

from openinference_operator import names
from openinference_operator.layout import ONE_RANK, Layout
from openinference_operator.manifests import model, ranks
from openinference_operator.manifests.common import (
    CONTAINER_SECURITY,
    LIFECYCLE,
    SCRATCH_ENVIRONMENT,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    TOKEN_MOUNT,
    TOKEN_VOLUME,
    Manifest,
    child,
    disruption_budget,
    scrape_annotations,
    tracing_environment,
)
from openinference_operator.manifests.placement import placed, pod_metadata, spread_constraints
from openinference_operator.spec import InferenceService

COMPONENT = "engine"

DEFAULT_MAX_SEQUENCES = 8
DEFAULT_MAX_WAITING = 64
DEFAULT_DTYPE = "auto"

START_SECONDS = 3600  # for a model of unknown size: it loads in this time or never
START_MARGIN_SECONDS = 300  # for everything but reading weights
SLOW_VOLUME_BYTES_PER_SECOND = 20_000_000  # a network volume on a bad day
SHUTDOWN_MARGIN_SECONDS = 30  # after the drain: closing streams, freeing memory


def seats(service: InferenceService) -> int:
    """How many requests one replica of the wanted revision runs at once."""
    return service.engine.max_sequences or DEFAULT_MAX_SEQUENCES


def build_controller_revision(
    service: InferenceService, revision: str, number: int, data: dict[str, Any]
) -> Manifest:
    """Keep `data`: what the user set (`fields`), and what that became (`layout`, `template`)."""
    name = names.controller_revision(service.name, revision)
    manifest = child(service, COMPONENT, "apps/v1", "ControllerRevision", name)
    manifest["metadata"]["labels"][names.LABEL_REVISION] = revision
    return manifest | {"revision": number, "data": data}


def build_statefulset(
    service: InferenceService, revision: str, group: str, template: Manifest, pods: int = 1
) -> Manifest:
    """One group. OnDelete and Parallel: the operator alone decides when pods are replaced."""
    manifest = child(service, COMPONENT, "apps/v1", "StatefulSet", group)
    group_labels = {names.LABEL_REVISION: revision, names.LABEL_GROUP: group}
    manifest["metadata"]["labels"] |= group_labels
    metadata = template["metadata"]
    return manifest | {
        "spec": {
            "replicas": pods,
            "serviceName": names.groups_service(service.name),
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "OnDelete"},
            "selector": {"matchLabels": {names.LABEL_GROUP: group}},
            "template": template
            | {"metadata": metadata | {"labels": metadata["labels"] | group_labels}},
        }
    }


def build_engine_disruption_budget(service: InferenceService) -> Manifest:
    """At most one group at a time is evicted."""
    manifest = child(service, COMPONENT, "policy/v1", "PodDisruptionBudget", service.name)
    return disruption_budget(manifest, selector(service.name))


def selector(service: str) -> dict[str, str]:
    """Labels of all engine pods of an InferenceService."""
    return {names.LABEL_SERVICE: service, names.LABEL_COMPONENT: COMPONENT}


def build_pod_template(
    service: InferenceService,
    default_image: str,
    layout: Layout = ONE_RANK,
    model_bytes: int | None = None,
    otlp_endpoint: str = "",
) -> Manifest:
    """Render a revision to the template of its pods. `model_bytes`: None while nobody knows."""
    image = service.engine.image or default_image
    container = {
        "name": COMPONENT,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "openinference_engine", "serve", model.engine_uri(service)],
        "args": [*_flags(service), *ranks.flags(service, layout)],
        "env": [*_environment(service, otlp_endpoint), *ranks.environment(layout, image)],
        "ports": [{"name": "http", "containerPort": names.ENGINE_PORT}, *ranks.ports(layout)],
        "resources": _resources(service),
        "securityContext": dict(CONTAINER_SECURITY),
        "lifecycle": dict(LIFECYCLE),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            dict(SCRATCH_MOUNT),
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108  (the container's own)
            dict(TOKEN_MOUNT),
            *model.engine_mounts(service),
            *map(dict, service.pod_template.volume_mounts),
        ],
        **_probes(start_seconds(model_bytes) + ranks.rendezvous_seconds(layout)),
    }
    return {
        "metadata": _metadata(service, layout),
        "spec": {
            **ranks.near_each_other(placed(service), selector(service.name), layout),
            "initContainers": model.init_containers(service, image),
            "containers": [container],
            "volumes": [
                dict(SCRATCH_VOLUME),
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                dict(TOKEN_VOLUME),
                *model.engine_volumes(service),
                *map(dict, service.pod_template.volumes),
            ],
            "terminationGracePeriodSeconds": service.rollout.drain_timeout_seconds
            + SHUTDOWN_MARGIN_SECONDS,
            "topologySpreadConstraints": spread_constraints(service, selector(service.name)),
        },
    }


def _metadata(service: InferenceService, layout: Layout) -> Manifest:
    metadata = pod_metadata(service, COMPONENT)
    if layout.pods == 1:  # the pods of a larger group share one template, and differ by index
        metadata["labels"][names.LABEL_ROLE] = "leader"
    metadata["annotations"] |= scrape_annotations(names.ENGINE_PORT)
    return metadata


def _flags(service: InferenceService) -> list[str]:
    engine = service.engine
    max_waiting = DEFAULT_MAX_WAITING if engine.max_waiting is None else engine.max_waiting
    flags = [
        f"--port={names.ENGINE_PORT}",
        f"--served-model-name={service.model.name}",
        f"--max-sequences={seats(service)}",
        f"--max-waiting={max_waiting}",
        f"--dtype={engine.dtype or DEFAULT_DTYPE}",
        f"--drain-timeout-seconds={service.rollout.drain_timeout_seconds}",
        f"--token-file={names.TOKEN_DIRECTORY}/{names.TOKEN_KEY}",
    ]
    if engine.max_model_len is not None:
        flags.append(f"--max-model-len={engine.max_model_len}")
    if engine.kv_cache_dtype is not None:
        flags.append(f"--kv-cache-dtype={engine.kv_cache_dtype}")
    if engine.activations is not None:
        flags.append(f"--activations={engine.activations}")
    if service.gpus_per_pod:
        flags.append("--device=cuda")  # the engine computes on the CPU unless it is told
    return flags


def _environment(service: InferenceService, otlp_endpoint: str) -> list[Manifest]:
    theirs = dict(service.pod_template.env)
    tracing = [each for each in tracing_environment(otlp_endpoint) if each["name"] not in theirs]
    group_label = f"metadata.labels['{names.LABEL_GROUP}']"
    return [
        *map(dict, SCRATCH_ENVIRONMENT),
        {"name": "OPENINFERENCE_NAMESPACE", "value": service.namespace},
        {"name": "OPENINFERENCE_SERVICE", "value": service.name},
        {"name": "OPENINFERENCE_GROUP", "valueFrom": {"fieldRef": {"fieldPath": group_label}}},
        *tracing,
        *({"name": name, "value": value} for name, value in theirs.items()),
    ]


def _resources(service: InferenceService) -> Manifest:
    resources = {"requests": dict(service.requests), "limits": dict(service.limits)}
    return {name: amounts for name, amounts in resources.items() if amounts}


def _probes(max_start_seconds: int) -> Manifest:
    """Starting and serving are judged by /ready, being alive by /health."""
    ready = {"httpGet": {"path": "/ready", "port": "http"}, "timeoutSeconds": 2}
    alive = {"httpGet": {"path": "/health", "port": "http"}, "timeoutSeconds": 5}
    return {
        "startupProbe": ready | {"periodSeconds": 1, "failureThreshold": max_start_seconds},
        "readinessProbe": ready | {"periodSeconds": 2, "failureThreshold": 2},
        "livenessProbe": alive | {"periodSeconds": 5, "failureThreshold": 6},
    }


def start_seconds(model_bytes: int | None) -> int:
    """How long an engine may load before it is restarted."""
    if model_bytes is None:
        return START_SECONDS
    return START_MARGIN_SECONDS + model_bytes // SLOW_VOLUME_BYTES_PER_SECOND
