"""Whether a live object still is what we rendered.

The API server adds defaults and other writers add fields of their own, so a live object equals a
manifest when it holds everything that the manifest says. What a newer manifest no longer says is
caught by the hash in it (`manifests.common.signed`).
"""

from collections.abc import Mapping
from typing import Any

from openinference_operator.fields import parse_quantity


def differs(live: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says anything that the live object does not."""
    return not _holds(live, manifest)


def _holds(live: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            _holds_member(live, key, value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and all(
            _holds_entry(live, place, item) for place, item in enumerate(wanted)
        )
    return bool(live == wanted)


def _holds_entry(live: list[Any], place: int, wanted: Any) -> bool:
    """Entries mostly are in their own places; a thousand owners must not be compared by pairs."""
    in_place = place < len(live) and _holds(live[place], wanted)
    return in_place or any(_holds(entry, wanted) for entry in live)


def _holds_member(live: Mapping[str, Any], key: str, wanted: Any) -> bool:
    if wanted in ({}, [], None) and key not in live:
        return True  # the API server drops what is empty
    if key in ("requests", "limits") and isinstance(wanted, Mapping):
        return _quantities(live.get(key) or {}) == _quantities(wanted)
    return key in live and _holds(live[key], wanted)


def _quantities(amounts: Mapping[str, Any]) -> dict[str, Any]:
    """1000m and 1 are the same amount, and the API server writes it its own way."""
    return {name: parse_quantity(str(amount)) for name, amount in amounts.items()}
