"""Where pods of a service may run, and as whom: what spec.podTemplate says, and our defaults.

The engines and the Job that fetches their model share it: the Job's volume is then bound, and its
credentials are found, where the engines will want them.
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator import names
from openinference_operator.manifests.common import (
    POD_SECURITY,
    Manifest,
    lost_node_tolerations,
    service_labels,
)
from openinference_operator.spec import InferenceService

HOSTNAME = "kubernetes.io/hostname"


def pod_metadata(service: InferenceService, component: str) -> Manifest:
    """Labels and annotations of a pod; ours win over the user's."""
    template = service.pod_template
    return {
        "labels": {**template.labels, **service_labels(service.name, component)},
        "annotations": dict(template.annotations),
    }


def placed(service: InferenceService) -> Manifest:
    """The fields of a PodSpec that place a pod and say as whom it runs."""
    template = service.pod_template
    spec: Manifest = {
        "securityContext": dict(POD_SECURITY),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": dict(template.node_selector),
        "tolerations": [*lost_node_tolerations(), *map(dict, template.tolerations)],
        **template.names,
    }
    if template.affinity:
        spec["affinity"] = dict(template.affinity)
    if template.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in template.image_pull_secrets]
    return spec


def spread_constraints(service: InferenceService, selector: Mapping[str, str]) -> list[Manifest]:
    """Replicas of one revision keep apart, so that one node or zone does not take them all."""
    given = service.pod_template.spread or ({"topologyKey": HOSTNAME},)
    return [_spread(constraint, selector) for constraint in given]


def _spread(constraint: Mapping[str, Any], selector: Mapping[str, str]) -> Manifest:
    return {
        "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway",
        **constraint,
        "labelSelector": {"matchLabels": dict(selector)},
        "matchLabelKeys": [names.LABEL_REVISION],
    }
