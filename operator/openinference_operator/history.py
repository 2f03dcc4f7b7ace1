"""What the ControllerRevisions of a service keep: each wish as rendered, and what became of it.

    failure       why the wanted revision was given up; lasts as long as it is wanted
    canary        the place of a canary under way (`canary.Place`)
    succeeded-at  when a rollout to it was last completed; the newest is the current revision

Pure. All notes on one revision are one operation, because each write makes a new version of it.
"""

from collections.abc import Iterator

from openinference_operator import names, timestamps
from openinference_operator.course import Course
from openinference_operator.layout import Layout
from openinference_operator.manifests import engine
from openinference_operator.manifests.common import Manifest
from openinference_operator.observe import Observed, Revision
from openinference_operator.operations import Annotate, Apply, Delete, Operation, Reference
from openinference_operator.revision import revised_fields
from openinference_operator.spec import InferenceService

KEPT_REVISIONS = 10  # besides those in use; as many as a Deployment keeps


def keep_revision(
    service: InferenceService,
    observed: Observed,
    revision: str,
    layout: Layout,
    rendered: Manifest,
) -> Iterator[Operation]:
    """Keep what the wanted revision is rendered to, before a group is made from it."""
    if revision in observed.revisions:
        return
    number = 1 + max((kept.number for kept in observed.revisions.values()), default=0)
    fields = revised_fields(service)
    # Applied, not created: the data of a ControllerRevision is immutable byte for byte, and only
    # apply stores it in the form that a later annotation leaves as it is.
    data = {"fields": fields, "layout": layout.as_json(), "template": rendered}
    manifest = engine.build_controller_revision(service, revision, number, data)
    yield Apply(manifest, exists=False)


def note_outcomes(
    service: InferenceService,
    observed: Observed,
    course: Course,
    now: float,
) -> Iterator[Operation]:
    """Bring the notes on each revision up to date."""
    for kept in observed.revisions.values():
        notes: dict[str, str | None] = {}
        failure = course.failure if course.is_rolled_back and kept.name == course.revision else ""
        is_on_trial = course.stage is not None and kept.name == course.target != course.current
        place = course.stage.place.to_text() if course.stage and is_on_trial else ""
        if kept.failure != failure:
            notes[names.ANNOTATION_FAILURE] = failure or None
        if kept.canary != place:
            notes[names.ANNOTATION_CANARY] = place or None
        if kept.name == course.current != observed.current_revision:
            notes[names.ANNOTATION_SUCCEEDED_AT] = _after_all_others(observed, now)
        if notes:
            yield Annotate(_reference(service, kept), notes)


def forget_revisions(
    service: InferenceService, observed: Observed, revision: str
) -> Iterator[Operation]:
    """Delete all but the newest of those that nothing uses."""
    in_use = {revision, observed.current_revision, *(group.revision for group in observed.groups)}
    unused = [kept for kept in observed.revisions.values() if kept.name not in in_use]
    newest_first = sorted(unused, key=lambda kept: kept.number, reverse=True)
    for kept in newest_first[KEPT_REVISIONS:]:
        yield Delete(_reference(service, kept))


def _after_all_others(observed: Observed, now: float) -> str:
    newest = max(other.succeeded_at for other in observed.revisions.values())
    return timestamps.to_text(max(now, newest + 1))


def _reference(service: InferenceService, kept: Revision) -> Reference:
    name = names.controller_revision(service.name, kept.name)
    return Reference("ControllerRevision", service.namespace, name, kept.uid, kept.resource_version)
