"""What is: the objects and reports about one InferenceService, reduced to plain data.

Everything is read from the store and from the routers' reports; nothing is asked of a cluster
here, and nothing is decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from openinference_operator import names, timestamps
from openinference_operator.auto_layout import Choice, choose
from openinference_operator.errors import SpecError
from openinference_operator.gang import Waiting, find_waiting
from openinference_operator.groups import Group, read_group
from openinference_operator.layout import ONE_RANK, Layout, read_layout
from openinference_operator.manifests.routing import read_routing
from openinference_operator.pods import Pod, read_pod
from openinference_operator.preparation import IN_PLACE, Preparation, is_fetcher, read_preparation
from openinference_operator.revision import revision_of
from openinference_operator.routers import Router, RouterView, find_router_trouble
from openinference_operator.sizing import Sizing, size
from openinference_operator.spec import InferenceService, parse
from openinference_operator.store import Object, Store

Live: TypeAlias = Mapping[tuple[str, str], Object]

CHILD_KINDS = (
    "StatefulSet",
    "ControllerRevision",
    "Job",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "NetworkPolicy",
)


@dataclass(frozen=True, slots=True)
class Revision:
    """One ControllerRevision.

    `succeeded_at`: when a rollout to it was last completed, or 0. `failure`: why the rollout to it
    failed, while it is still wanted. `canary`: the place of a canary under way, as text.
    """

    name: str
    number: int
    succeeded_at: float
    failure: str
    canary: str
    template: Mapping[str, Any]
    layout: Layout
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What keeps a group from getting its pod, or that pod from a node or from its volumes."""

    words: str
    has_pod: bool


@dataclass(frozen=True, slots=True)
class Observed:
    """All facts about one InferenceService that a decision may use.

    `preparation`: how far the wanted model is; `jobs` and `fetchers`: what fetches models, raw.
    `gpu_memories`: bytes of one GPU of each place that nodes could have for a pod. `obstacles`: of
    groups that do not get on, by name. `waiting`: groups of the whole cluster that lack nodes,
    while one of these holds some.
    `live`: its objects by kind and name. `status`: what it said last. `name_taken_by`: an older
    InferenceService of the namespace with the same model name, or empty.
    """

    groups: tuple[Group, ...]
    revisions: Mapping[str, Revision]
    routers: RouterView
    live: Live
    status: Mapping[str, Any]
    name_taken_by: str
    preparation: Preparation = IN_PLACE
    jobs: tuple[Object, ...] = ()
    fetchers: tuple[Object, ...] = ()
    gpu_memories: tuple[int, ...] = ()
    obstacles: Mapping[str, Obstacle] = field(default_factory=dict)
    waiting: tuple[Waiting, ...] = ()

    @property
    def current_revision(self) -> str:
        """The revision whose rollout was completed last; empty before the first."""
        done = [revision for revision in self.revisions.values() if revision.succeeded_at]
        return max(done, key=lambda revision: revision.succeeded_at).name if done else ""

    def layout(self, service: InferenceService) -> Choice:
        """The ranks of a replica of the wanted revision: as was kept, or as they would be now."""
        kept = self.revisions.get(revision_of(service))
        if kept is not None:
            return Choice(kept.layout, "as its revision was made")
        result = self.preparation.result
        return choose(service, result.summary if result else None, self.gpu_memories)

    def sizing(self, service: InferenceService) -> Sizing | None:
        """How the memory of a replica is divided; None while the model is not known."""
        result = self.preparation.result
        if result is None or result.summary is None:
            return None
        layout = self.layout(service).layout
        return size(service, layout, result.summary, self.gpu_memories)

    def layout_of(self, group: Group) -> Layout:
        """The ranks of a group that exists."""
        kept = self.revisions.get(group.revision)
        return kept.layout if kept else ONE_RANK


def observe(store: Store, service: InferenceService, routers: Sequence[Router]) -> Observed:
    """Gather the facts about a service."""
    live = {
        (kind, obj["metadata"]["name"]): obj
        for kind in CHILD_KINDS
        for obj in store.select(kind, service.namespace, service.name)
    }
    routing = read_routing(live.get(("ConfigMap", names.routing_configmap(service.name))))
    trouble = find_router_trouble(store, service.namespace)
    view = RouterView(service.name, tuple(routers), routing, trouble)
    raw_pods = store.select("Pod", service.namespace, service.name)
    pods = {raw["metadata"]["name"]: read_pod(raw) for raw in raw_pods}
    own = [obj for obj in live.values() if is_owned_by(obj, service.uid)]
    kept = [_revision(obj) for obj in own if obj["kind"] == "ControllerRevision"]
    revisions = {revision.name: revision for revision in kept}
    groups = tuple(
        read_group(obj, _members(obj, revisions, pods), view)
        for obj in own
        if obj["kind"] == "StatefulSet"
    )
    jobs = tuple(obj for obj in own if obj["kind"] == "Job")
    raw = store.service(service.namespace, service.name) or {}
    is_half_placed = any(group.is_half_placed for group in groups)
    return Observed(
        groups=groups,
        revisions=revisions,
        routers=view,
        preparation=read_preparation(service, revision_of(service), jobs, raw_pods),
        jobs=jobs,
        fetchers=tuple(raw for raw in raw_pods if is_fetcher(raw)),
        live=live,
        status=raw.get("status") or {},
        name_taken_by=_older_namesake(store, service),
        waiting=tuple(find_waiting(store.all_pods()) if is_half_placed else ()),
    )


def _members(
    statefulset: Object, revisions: Mapping[str, Revision], pods: Mapping[str, Pod]
) -> tuple[Pod | None, ...]:
    """The pods of a group by their index; None for one that does not exist."""
    group = statefulset["metadata"]["name"]
    kept = revisions.get(statefulset["metadata"]["labels"].get(names.LABEL_REVISION, ""))
    number = kept.layout.pods if kept else 1
    return tuple(pods.get(names.pod(group, index)) for index in range(number))


def is_owned_by(obj: Object, uid: str) -> bool:
    """Whether an InferenceService is an owner of an object."""
    owners = obj["metadata"].get("ownerReferences") or []
    return any(owner["uid"] == uid for owner in owners)


def _revision(obj: Object) -> Revision:
    metadata = obj["metadata"]
    annotations = metadata.get("annotations") or {}
    succeeded_at = annotations.get(names.ANNOTATION_SUCCEEDED_AT)
    data = obj.get("data") or {}
    return Revision(
        name=metadata["labels"].get(names.LABEL_REVISION, ""),
        number=int(obj.get("revision", 0)),
        succeeded_at=timestamps.from_text(succeeded_at) if succeeded_at else 0.0,
        failure=annotations.get(names.ANNOTATION_FAILURE, ""),
        canary=annotations.get(names.ANNOTATION_CANARY, ""),
        template=data.get("template") or {},
        layout=read_layout(data.get("layout")),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
    )


def _older_namesake(store: Store, service: InferenceService) -> str:
    """Of several InferenceServices with one model name, the routers serve the oldest."""
    mine = (service.created_at, service.name)
    for raw in store.claimants(service.namespace, service.model.name):
        metadata = raw["metadata"]
        theirs = (metadata.get("creationTimestamp", ""), metadata["name"])
        if theirs < mine and _is_valid(raw):
            return str(metadata["name"])
    return ""


def _is_valid(raw: Object) -> bool:
    try:
        parse(raw)
    except SpecError:
        return False
    return True
