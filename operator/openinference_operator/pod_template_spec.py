"""spec.podTemplate: the part of a PodSpec that users may set, in the API's own shape."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openinference_operator.fields import Fields


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """What engine pods need from the cluster; `names` holds fields of a PodSpec that are names."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    env: tuple[tuple[str, str], ...]
    node_selector: Mapping[str, str]
    affinity: Mapping[str, Any]
    tolerations: tuple[Mapping[str, Any], ...]
    spread: tuple[Mapping[str, Any], ...]
    image_pull_secrets: tuple[str, ...]
    volumes: tuple[Mapping[str, Any], ...]
    volume_mounts: tuple[Mapping[str, Any], ...]
    names: Mapping[str, str]


NAMES = ("priorityClassName", "schedulerName", "runtimeClassName", "serviceAccountName")


def parse_pod_template(fields: Fields) -> PodTemplate:
    """Read spec.podTemplate. Raises SpecError."""
    given = {name: fields.text(name) for name in NAMES}
    return PodTemplate(
        labels=fields.texts("labels"),
        annotations=fields.texts("annotations"),
        env=tuple(
            (entry.required_text("name"), entry.text("value") or "")
            for entry in fields.sections("env")
        ),
        node_selector=fields.texts("nodeSelector"),
        affinity=fields.section("affinity").values,
        tolerations=tuple(entry.values for entry in fields.sections("tolerations")),
        spread=tuple(entry.values for entry in fields.sections("topologySpreadConstraints")),
        image_pull_secrets=tuple(
            entry.required_text("name") for entry in fields.sections("imagePullSecrets")
        ),
        volumes=tuple(entry.values for entry in fields.sections("volumes")),
        volume_mounts=tuple(entry.values for entry in fields.sections("volumeMounts")),
        names={name: value for name, value in given.items() if value},
    )
