"""Revisions: which fields need new pods, and the hash by which equal wishes are recognised.

A revision is the hash of the canonical JSON of the *set* fields inside the revision, never of
their defaults: a new operator with other defaults finds the same revision and rolls nothing, and
an old spec applied again finds its old ControllerRevision, with the image of that time.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from openinference_operator.spec import InferenceService

HEX_DIGITS = 8  # 32 bits; a service keeps a handful of revisions


def revised_fields(service: InferenceService) -> dict[str, Any]:
    """The set fields that need new pods, without what is empty or null."""
    fields = dict(_compact(service.revised) or {})
    if service.restarted_at:
        fields["restartedAt"] = service.restarted_at
    return fields


def revision_of(service: InferenceService) -> str:
    """Name of the revision that a spec asks for."""
    canonical = json.dumps(revised_fields(service), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HEX_DIGITS]


def _compact(value: Any) -> Any:
    """Drop nulls and empty objects, so that `engine: {}` equals no engine at all."""
    if isinstance(value, Mapping):
        members = {key: _compact(member) for key, member in value.items()}
        return {key: member for key, member in members.items() if member is not None} or None
    if isinstance(value, list):
        return [_compact(member) for member in value] or None
    return value
