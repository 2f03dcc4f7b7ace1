"""How a model comes to its pods: the volume they see it in, and what fetches it there.

With a claim one Job fetches for all replicas, or looks at what a user has put there; without one
an init container fetches into an emptyDir of each pod. Both run `openinference model prepare` in
the engine's image, which tells its progress in log lines and its result in the termination
message. The operator reads neither the model nor the Secret.
"""

from openinference_operator import names
from openinference_operator.manifests.common import (
    CONTAINER_SECURITY,
    SCRATCH_ENVIRONMENT,
    SCRATCH_MOUNT,
    SCRATCH_VOLUME,
    Manifest,
    child,
)
from openinference_operator.manifests.placement import placed, pod_metadata
from openinference_operator.spec import InferenceService

COMPONENT = "model"
DIRECTORY = "/models"
RESULT_FILE = "/dev/termination-log"
RETRIES = 1_000_000  # a download goes on where it was cut, so a start more costs nothing

# 8 ranges of 8 MiB are in flight, and Python itself needs as much again.
RESOURCES: Manifest = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}


def engine_uri(service: InferenceService) -> str:
    """The model's URI as the engine sees it."""
    scheme, _, rest = service.model.uri.partition("://")
    if service.model.is_remote:
        return f"file://{DIRECTORY}/{service.model.path}"
    if scheme == "pvc":
        return f"file://{DIRECTORY}/{rest.partition('/')[2]}"
    return service.model.uri


def engine_volumes(service: InferenceService) -> list[Manifest]:
    """The volume that holds the model for the engine, if it needs one."""
    if service.model.volume_claim:
        return [_claimed(service, read_only=True)]
    return [{"name": COMPONENT, "emptyDir": {}}] if service.model.is_remote else []


def engine_mounts(service: InferenceService) -> list[Manifest]:
    """Where the engine sees it, read-only."""
    return [
        {"name": volume["name"], "mountPath": DIRECTORY, "readOnly": True}
        for volume in engine_volumes(service)
    ]


def init_containers(service: InferenceService, image: str) -> list[Manifest]:
    """What fetches the model into the pod, where no Job has done so."""
    model = service.model
    return [_preparer(service, image)] if model.is_remote and not model.volume_claim else []


def build_job(service: InferenceService, default_image: str) -> Manifest:
    """The Job that fetches the model into the claim, or looks at it. It runs until it succeeds."""
    manifest = child(service, COMPONENT, "batch/v1", "Job", job_name(service))
    spec = {
        **placed(service),
        "restartPolicy": "OnFailure",
        "containers": [_preparer(service, service.engine.image or default_image)],
        "volumes": [
            dict(SCRATCH_VOLUME),
            _claimed(service, read_only=not service.model.is_remote),
        ],
    }
    return manifest | {
        "spec": {
            "backoffLimit": RETRIES,
            "template": {"metadata": pod_metadata(service, COMPONENT), "spec": spec},
        }
    }


def job_name(service: InferenceService) -> str:
    """Name of the Job that fetches what the spec asks for."""
    return names.model_job(service.name, service.model.job)


def _preparer(service: InferenceService, image: str) -> Manifest:
    model = service.model
    uri = model.uri if model.is_remote else engine_uri(service)
    container: Manifest = {
        "name": COMPONENT,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "openinferencev2", "model", "prepare", uri],
        "args": [
            f"--directory={DIRECTORY}/{model.folder}",
            f"--result-file={RESULT_FILE}",
            *([f"--revision={model.revision}"] if model.revision else []),
            *([f"--sha256={model.sha256}"] if model.sha256 else []),
        ],
        "env": [*map(dict, SCRATCH_ENVIRONMENT)],
        "resources": RESOURCES,
        "securityContext": dict(CONTAINER_SECURITY),
        "terminationMessagePath": RESULT_FILE,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [dict(SCRATCH_MOUNT), {"name": COMPONENT, "mountPath": DIRECTORY}],
    }
    if model.secret:
        container["envFrom"] = [{"secretRef": {"name": model.secret}}]
    return container


def _claimed(service: InferenceService, *, read_only: bool) -> Manifest:
    claim = {"claimName": service.model.volume_claim}
    source = claim | {"readOnly": True} if read_only else claim
    return {"name": COMPONENT, "persistentVolumeClaim": source}
