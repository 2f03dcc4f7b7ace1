"""Points in time: seconds since the epoch inside the operator, RFC 3339 in objects."""

from datetime import UTC, datetime


def to_text(seconds: float) -> str:
    """Write a point in time as Kubernetes does, to the second."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def from_text(text: str) -> float:
    """Read what `to_text` or the API server wrote."""
    return datetime.fromisoformat(text).timestamp()
