"""Writes what is generated from a source of truth elsewhere: `python -m docs.generate`.

Each entry of GENERATED makes one file's text; a test (tests/test_generated.py) compares the files
with what would be written, so that they cannot drift.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from docs.grafana import DASHBOARDS, dashboard

ROOT = Path(__file__).resolve().parents[1]


def reasons() -> str:
    """What docs/conditions.md says of each reason, for pages and command lines to repeat."""
    text = (ROOT / "docs" / "conditions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    words = {reason: {"means": means, "remedy": remedy} for reason, means, remedy in rows}
    return _json({"reasons": words})


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def grafana(name: str) -> Callable[[], str]:
    return lambda: _json(dashboard(name))


GENERATED: dict[str, Callable[[], str]] = {
    **{
        f"charts/openinference/files/monitoring/dashboards/{name}.json": grafana(name)
        for name in DASHBOARDS
    },
    "engine/openinference_router/dashboard/static/reasons.json": reasons,
}


def main() -> None:
    for place, make in GENERATED.items():
        (ROOT / place).write_text(make())
        print(place)


if __name__ == "__main__":
    main()
