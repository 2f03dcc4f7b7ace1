"""Names, labels, annotations and ports, as docs/wire.md fixes them.

Everything that two parts or two modules must spell alike is spelled here once.
"""

from typing import Final

API_GROUP: Final = "openinference.dev"
API_VERSION: Final = "v1alpha1"
KIND: Final = "InferenceService"
PLURAL: Final = "inferenceservices"

FIELD_MANAGER: Final = "openinference-operator"

LABEL_SERVICE: Final = "openinference.dev/service"
LABEL_REVISION: Final = "openinference.dev/revision"
LABEL_GROUP: Final = "openinference.dev/group"
LABEL_ROLE: Final = "openinference.dev/role"
LABEL_ROUTING: Final = "openinference.dev/routing"
LABEL_POD_INDEX: Final = "apps.kubernetes.io/pod-index"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
OWN_OBJECTS: Final = f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"

ANNOTATION_RESTARTED_AT: Final = "openinference.dev/restartedAt"
ANNOTATION_DRAINING_SINCE: Final = "openinference.dev/draining-since"
ANNOTATION_APPLIED: Final = "openinference.dev/applied"
ANNOTATION_SUCCEEDED_AT: Final = "openinference.dev/succeeded-at"
ANNOTATION_READY_AT: Final = "openinference.dev/ready-at"
ANNOTATION_RECREATED_AT: Final = "openinference.dev/recreated-at"
ANNOTATION_GIVEN_UP_AT: Final = "openinference.dev/given-up-at"
ANNOTATION_GOLDEN_AT: Final = "openinference.dev/golden-at"
ANNOTATION_CANARY: Final = "openinference.dev/canary"
ANNOTATION_FAILURE: Final = "openinference.dev/failure"
ANNOTATION_MODEL: Final = "openinference.dev/model"

ENGINE_PORT: Final = 8000
RANKS_PORT: Final = 8001
ROUTER_PORT: Final = 8080
ROUTER_TLS_PORT: Final = 8443
ROUTER_INTERNAL_PORT: Final = 8081
CLIENT_PORT: Final = 80
CLIENT_TLS_PORT: Final = 443

ROUTER: Final = "openinference-router"
ENGINES: Final = "openinference-engines"
TOKEN_SECRET: Final = "openinference-token"  # noqa: S105  (a name, not a secret)
TOKEN_KEY: Final = "token"  # noqa: S105
TOKEN_DIRECTORY: Final = "/var/run/openinference"  # noqa: S105
KEYS_SECRET: Final = "openinference-keys"  # noqa: S105
TLS_SECRET: Final = "openinference-tls"  # noqa: S105
TOKEN_HEADER: Final = "x-openinference-token"  # noqa: S105


def groups_service(service: str) -> str:
    """Name of the headless Service of all groups of an InferenceService."""
    return f"{service}-groups"


def routing_configmap(service: str) -> str:
    """Name of the ConfigMap that tells the routers of an InferenceService."""
    return f"{service}-routing"


def controller_revision(service: str, revision: str) -> str:
    """Name of the ControllerRevision that keeps a revision."""
    return f"{service}-{revision}"


def model_job(service: str, digest: str) -> str:
    """Name of the Job that fetches a model into a claim."""
    return f"{service}-model-{digest}"


def group(service: str, revision: str, number: int) -> str:
    """Name of a group, which is the name of its StatefulSet."""
    return f"{service}-{revision}-{number}"


def pod(group_name: str, index: int) -> str:
    """Name of a pod of a group; the one with index 0 serves HTTP."""
    return f"{group_name}-{index}"


def group_address(group_name: str, service: str, namespace: str) -> str:
    """URL at which routers reach a group."""
    host = f"{pod(group_name, 0)}.{groups_service(service)}.{namespace}.svc"
    return f"http://{host}:{ENGINE_PORT}"
