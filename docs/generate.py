"""Writes what is generated from a source of truth elsewhere: `python -m docs.generate`.

Each entry of GENERATED makes one file's text; a test (tests/test_generated.py) compares the files
with what would be written, so that they cannot drift.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from docs import reference_pages
from docs.grafana import DASHBOARDS, dashboard

ROOT = Path(__file__).resolve().parents[1]
CRD = "openinference.dev_inferenceservices.yaml"


def reasons() -> str:
    """What docs/conditions.md says of each reason, for pages and command lines to repeat."""
    text = (ROOT / "docs" / "conditions.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    words = {reason: {"means": means, "remedy": remedy} for reason, means, remedy in rows}
    return _json({"reasons": words})


def _json(document: object) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def runbooks() -> str:
    """A line for each alert's page."""
    pages = sorted((ROOT / "docs/runbooks").glob("*.md"))
    lines = [f"- [{page.stem}](runbooks/{page.name})\n" for page in pages]
    about = "A page for each alert: what it means, where to look, what to do."
    return f"# Runbooks\n\n{about}\n\n" + "".join(lines)


def decisions() -> str:
    """A line for each ADR."""
    pages = sorted((ROOT / "docs/adr").glob("*.md"))
    titles = [page.read_text().splitlines()[0].lstrip("# ") for page in pages]
    lines = [f"- [{title}](adr/{page.name})\n" for title, page in zip(titles, pages, strict=True)]
    about = "Why things are as they are. A decision is not rewritten; a new one replaces it."
    return f"# Decisions\n\n{about}\n\n" + "".join(lines)


def grafana(name: str) -> Callable[[], str]:
    return lambda: _json(dashboard(name))


GENERATED: dict[str, Callable[[], str]] = {
    **{
        f"charts/openinference/files/monitoring/dashboards/{name}.json": grafana(name)
        for name in DASHBOARDS
    },
    f"charts/openinference/files/crds/{CRD}": (ROOT / "crds" / CRD).read_text,
    "engine/openinference_router/dashboard/static/reasons.json": reasons,
    "docs/decisions.md": decisions,
    "docs/runbooks.md": runbooks,
    "docs/reference/api.md": reference_pages.api,
    "docs/reference/command-line.md": reference_pages.command_line,
    "docs/reference/configuration.md": reference_pages.configuration,
    "docs/reference/metrics.md": reference_pages.metrics,
}


def main() -> None:
    for place, make in GENERATED.items():
        (ROOT / place).write_text(make())
        print(place)


if __name__ == "__main__":
    main()
